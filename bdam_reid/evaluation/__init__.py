"""Evaluation, whatever the method: protocols, ranking, metrics, probes, tables, pictures."""

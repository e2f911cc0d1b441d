"""MTA-CLIP: a CLIP taught to tell persons apart in several domains, by learnt prompts and an adapter.

Its authors published a description without code or figures: hierarchical context prompting (`prompts`), a semantic
grouping adapter (`adapter`), progressive two-stage optimisation (`method`). What it leaves open is filled in from
CLIP-ReID (Li, Sun and Li, AAAI 2023), on which it is built, and which is this method with the adapter left out.
"""

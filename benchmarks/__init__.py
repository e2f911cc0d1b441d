"""Measurements: `pytest benchmarks` takes them, `python -m benchmarks.report` prints and draws what is committed."""

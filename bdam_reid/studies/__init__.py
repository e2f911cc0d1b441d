"""Studies that train, or search with what was trained: one module each, run as `python -m bdam_reid.studies.NAME`."""

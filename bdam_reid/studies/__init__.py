"""Studies of the drafts that train: one module each, run as `python -m bdam_reid.studies.NAME`."""

"""Training, whatever the method: stages, checkpoints, the run folder."""

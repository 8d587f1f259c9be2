"""The infrastructure of a run: command line, folder, checkpoints, metrics."""

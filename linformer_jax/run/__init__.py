"""What surrounds a run: command line, folder, checkpoints, records."""

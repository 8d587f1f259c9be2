"""Turns text into batches; start at `pipeline`."""

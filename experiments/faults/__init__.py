"""Faults done to a run, and how each of them ended."""

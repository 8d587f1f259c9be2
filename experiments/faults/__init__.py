"""Injects faults into runs and records how each run ended."""

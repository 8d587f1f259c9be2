"""Kernels for TPUs: what compiles, and how many bytes it moves."""

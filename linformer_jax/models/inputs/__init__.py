"""Inputs: modules that make the rows [B, N, M] on which an encoder works."""

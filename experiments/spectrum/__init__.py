"""Singular values of attention matrices (Figure 1)."""

"""Attention kernels that XLA does not derive from plain einsum and softmax."""

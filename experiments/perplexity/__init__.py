"""Pretraining curves: Figure 3 of the paper, and what stands beside it."""

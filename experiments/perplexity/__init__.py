"""Pretraining curves: Figure 3 of the paper, and further comparisons."""

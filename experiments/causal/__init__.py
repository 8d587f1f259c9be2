"""Causal language models of linear cost: what is far, and what it costs."""

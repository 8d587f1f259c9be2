"""Linformers that start from the weights of softmax attention."""

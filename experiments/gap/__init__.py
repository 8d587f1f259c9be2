"""The gap to softmax attention above windows."""

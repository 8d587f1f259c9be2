"""The gap to softmax attention where neighbors do not decide."""

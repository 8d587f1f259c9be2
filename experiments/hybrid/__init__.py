"""Linear-cost stacks beside softmax attention: windows below, slots above."""

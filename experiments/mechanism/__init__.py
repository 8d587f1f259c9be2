"""Which layers of a trained softmax model need rank, and which near rows."""

"""MiniLM-L6 with softmax attention replaced by projected slots."""

"""Results, and the commands that made them."""

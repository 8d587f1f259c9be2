"""Attention by other means than the compiler's."""

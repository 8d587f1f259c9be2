"""The Long Range Arena (arXiv 2011.04006), at its sizes and at reduced ones."""

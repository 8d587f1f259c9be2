"""A decoder that attends to slots of a source, projected once."""

"""Looks at compiled programs and trained models."""

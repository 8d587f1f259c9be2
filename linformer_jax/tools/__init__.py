"""Tools that inspect compiled programs and trained models."""

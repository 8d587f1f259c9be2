"""The default job."""

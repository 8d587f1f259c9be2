"""Text in, batches for masked language modeling out; start at `pipeline`."""

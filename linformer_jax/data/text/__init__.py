"""Text: sources, tokenizer, cached token streams, blocks and masks."""

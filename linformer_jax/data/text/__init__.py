"""Text: sources, tokenizer, cached streams of tokens, blocks and masks."""

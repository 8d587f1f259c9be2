"""Texts whose words are the tokens: ListOps, and images as gray levels."""

import tokenizers

from linformer_jax.data.text import special

# Of ListOps in the Arena.
SIZES = {"train": 96_000, "valid": 2_000, "test": 2_000}
PATHS = 200_000  # images of Pathfinder in the Arena, of one difficulty


def tokenizer(words) -> tokenizers.Tokenizer:
  """Returns a tokenizer with an id for each word, after RoBERTa's tokens."""
  ids = {word: i for i, word in enumerate((*special.ROBERTA, *words))}
  unknown = special.ROBERTA[3]
  found = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(ids, unk_token=unknown)
  )
  found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  found.add_special_tokens(list(special.ROBERTA))
  return found

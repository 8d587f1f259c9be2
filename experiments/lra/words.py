"""Texts whose words are the tokens: ListOps, and images as gray levels."""

import time
from collections.abc import Iterable, Iterator

import tokenizers

from linformer_jax.data.text import special
from linformer_jax.run import report

# Of ListOps in the Arena.
SIZES = {"train": 96_000, "valid": 2_000, "test": 2_000}
_SECONDS = 10  # between two lines of progress
PATHS = 200_000  # images of Pathfinder in the Arena, of one difficulty


def told(items: Iterable, count: int, noun: str) -> Iterator:
  """Yields items, and says every ten seconds how many there were."""
  start = said = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    if time.monotonic() - said > _SECONDS:
      said = time.monotonic()
      left = (said - start) / done * (count - done)
      report.say(f"{done:,} {noun}, {report.clock(left)} left")


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

"""Byte-level BPE, trained here or loaded from a tokenizer.json.

RoBERTa's tokenizer: every byte is in the alphabet, so no text is unknown and
decoding returns the text exactly. The four special ids are RoBERTa's; `<mask>`
follows them in a tokenizer trained here and comes last in RoBERTa's own, so
its id is asked for and never assumed.

This module is a leaf.
"""

import json
import logging
import os
from collections.abc import Iterable

import tokenizers

_log = logging.getLogger(__name__)

BOS_ID = 0
PAD_ID = 1
EOS_ID = 2
UNK_ID = 3
SPECIAL_IDS = {"<s>": BOS_ID, "<pad>": PAD_ID, "</s>": EOS_ID, "<unk>": UNK_ID}
MASK_TOKEN = "<mask>"
# The special tokens and one token for each byte.
SMALLEST_VOCABULARY = len(SPECIAL_IDS) + 1 + 256


def train(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
  """Trains byte-level BPE on `texts`.

  Training is deterministic: hosts that train on the same text, each for
  itself, agree on every id.

  Args:
    texts: documents; read once.
    vocab_size: the number of ids wanted, special tokens included. A small
      corpus may have too few pairs to reach it; that is logged, not an error.

  Returns:
    The tokenizer.

  Raises:
    ValueError: if `vocab_size` cannot hold the bytes and special tokens.
  """
  if vocab_size < SMALLEST_VOCABULARY:
    raise ValueError(
      f"vocab_size is {vocab_size}; byte-level BPE needs at least"
      f" {SMALLEST_VOCABULARY}: 256 bytes and 5 special tokens"
    )
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.pre_tokenizer = byte_level
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[*SPECIAL_IDS, MASK_TOKEN],
    initial_alphabet=sorted(byte_level.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  actual = size(tokenizer)
  if actual < vocab_size:
    _log.warning(
      "The training text yields a vocabulary of %d, less than the %d"
      " configured: the embeddings of the other %d ids stay unused.",
      actual,
      vocab_size,
      vocab_size - actual,
    )
  return _plain(tokenizer)


def load(path: str | os.PathLike[str], vocab_size: int) -> tokenizers.Tokenizer:
  """Loads a tokenizer.json and checks that it fits.

  Args:
    path: the file.
    vocab_size: the size of the embedding table; may exceed the tokenizer's.

  Returns:
    The tokenizer, without truncation and padding.

  Raises:
    ValueError: if the file is missing or not a tokenizer, lacks RoBERTa's
      special tokens at their ids, or has more ids than `vocab_size`.
  """
  path = os.fspath(path)
  try:
    with open(path, encoding="utf-8") as file:
      text = file.read()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read the tokenizer {path}: {error}") from error
  return parse(text, vocab_size, path)


def parse(text: str, vocab_size: int, name: str) -> tokenizers.Tokenizer:
  """As `load`, from the file's text; `name` is for the error messages."""
  try:
    fields = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f"{name} is not JSON: {error}") from error
  if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
    raise ValueError(f'{name} is not a tokenizer.json: it has no "model"')
  tokenizer = tokenizers.Tokenizer.from_str(text)
  for token, expected in SPECIAL_IDS.items():
    actual = tokenizer.token_to_id(token)
    if actual != expected:
      raise ValueError(
        f"{name}: {token} must have id {expected}, and"
        f" {'is missing' if actual is None else f'has {actual}'}"
      )
  if tokenizer.token_to_id(MASK_TOKEN) is None:
    raise ValueError(f"{name}: {MASK_TOKEN} is missing")
  if size(tokenizer) > vocab_size:
    raise ValueError(
      f"{name} has {size(tokenizer)} ids, more than vocab_size {vocab_size}"
    )
  return _plain(tokenizer)


def size(tokenizer: tokenizers.Tokenizer) -> int:
  """One more than the largest id: ids need not be contiguous."""
  return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def mask_id(tokenizer: tokenizers.Tokenizer) -> int:
  """The id of `<mask>`."""
  return tokenizer.token_to_id(MASK_TOKEN)


def special_ids(tokenizer: tokenizers.Tokenizer) -> list[int]:
  """Ids that are never predicted: special tokens, and ids with no token."""
  known = set(tokenizer.get_vocab(with_added_tokens=True).values())
  special = set(range(size(tokenizer))) - known
  special.update(SPECIAL_IDS.values())
  special.add(mask_id(tokenizer))
  for token_id, token in tokenizer.get_added_tokens_decoder().items():
    if token.special:
      special.add(token_id)
  return sorted(special)


def encode(
  tokenizer: tokenizers.Tokenizer, texts: list[str]
) -> list[list[int]]:
  """Token ids of each text, without `<s>` or `</s>`, in parallel."""
  encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
  return [encoding.ids for encoding in encodings]


def _plain(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  """Switches off what would make ids depend on more than the text."""
  # A document that spells out '<mask>' or '</s>' holds those characters, not
  # the special token. The setting is not part of tokenizer.json.
  tokenizer.encode_special_tokens = True
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer

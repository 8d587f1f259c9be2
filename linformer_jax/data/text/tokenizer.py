"""Byte-level BPE trained here, or any tokenizer loaded from a tokenizer.json.

What is trained here is RoBERTa's: every byte is in the alphabet, so no text is
unknown and decoding returns the text exactly. A tokenizer that is loaded has
RoBERTa's special tokens or BERT's, at any ids; see `special`.
"""

import base64
import json
import logging
import os
import pathlib
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers

from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import wordpiece

_log = logging.getLogger(__name__)

# The special tokens and one token for each byte.
SMALLEST_VOCABULARY = len(special_lib.ROBERTA) + 256
# Limits in characters: BPE's memory grows with the longest text and its time
# with the longest run of letters or of spaces.
_LONGEST_RUN = 256
_PIECE = 2**14
_LONGEST_PIECE = 2**18
_AT_ONCE = 2**20
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")


def train(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
  """Trains byte-level BPE on `texts`.

  Training is deterministic: hosts that each train on the same text agree on
  every id.

  Args:
    texts: documents; read once.
    vocab_size: the number of ids wanted, special tokens included. A small
      corpus may have too few pairs to reach it; that is logged, not an error.

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
  # Merges are counted within runs of letters, of digits or of white space. The
  # time to learn them grows with the square of the longest run.
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [byte_level, tokenizers.pre_tokenizers.FixedLength(_LONGEST_RUN)]
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(special_lib.ROBERTA),
    initial_alphabet=sorted(byte_level.alphabet()),
    show_progress=False,
  )
  tokenizer.train_from_iterator(
    (piece for text in texts for piece in _pieces(text)), trainer
  )
  tokenizer.pre_tokenizer = byte_level
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
  """Loads a tokenizer.json, or BERT's vocab.txt, and checks that it fits.

  Args:
    path: the file.
    vocab_size: the size of the embedding table; may exceed the tokenizer's.

  Returns:
    The tokenizer, without truncation or padding.

  Raises:
    ValueError: if the file is missing or not a tokenizer, lacks the special
      tokens of both RoBERTa and BERT, or has more ids than `vocab_size`.
  """
  path = os.fspath(path)
  if os.path.isdir(path):
    raise ValueError(f"{path} is a folder: name the tokenizer.json in it")
  if os.path.basename(path) == wordpiece.VOCABULARY:
    return parse(wordpiece.read(pathlib.Path(path)), vocab_size, path)
  try:
    with open(path, encoding="utf-8-sig") as file:
      text = file.read()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read the tokenizer {path}: {error}") from error
  return parse(text, vocab_size, path)


def parse(text: str, vocab_size: int, name: str) -> tokenizers.Tokenizer:
  """Like `load`, but from the file's text; `name` is for error messages."""
  try:
    fields = json.loads(text)
  except RecursionError as error:
    raise ValueError(f"{name} is JSON that is nested too deeply") from error
  except ValueError as error:
    raise ValueError(f"{name} is not JSON: {error}") from error
  if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
    raise ValueError(f'{name} is not a tokenizer.json: it has no "model"')
  tokenizer = _from_str(text, fields, name)
  special_lib.of(tokenizer, name)
  if size(tokenizer) > vocab_size:
    raise ValueError(
      f"{name} has {size(tokenizer)} ids, more than vocab_size {vocab_size}"
    )
  return tokenizer


def _from_str(text: str, fields: Any, name: str) -> tokenizers.Tokenizer:
  """Makes a tokenizer from `text`, the JSON of `fields`."""
  _check_charsmaps(fields, name)
  try:
    tokenizer = _plain(tokenizers.Tokenizer.from_str(text))
    # A model may lack a token for unknown characters.
    tokenizer.encode("probe \u2603 \x00")
  except Exception as error:  # The package raises this very class.
    reason = str(error).partition("\n")[0]
    raise ValueError(
      f"{name} is not a tokenizer that tokenizers {tokenizers.__version__} can"
      f" use: {reason}"
    ) from error
  return tokenizer


def _check_charsmaps(fields: Any, name: str) -> None:
  """Checks SentencePiece normalizers: broken ones make the package panic."""
  left = [fields]
  while left:
    value = left.pop()
    if isinstance(value, list):
      left.extend(value)
    elif isinstance(value, dict):
      left.extend(value.values())
      if value.get("type") == "Precompiled":
        _check_charsmap(value.get("precompiled_charsmap"), name)


def _check_charsmap(text: Any, name: str) -> None:
  try:
    data = base64.b64decode(text, validate=True)
    (trie,) = struct.unpack_from("<I", data)
    if trie % 4 or not 4 <= trie <= len(data) - 4:
      raise ValueError(f"a trie of {trie} bytes in {len(data)}")
    data[4 + trie :].decode()
  except (TypeError, ValueError, struct.error) as error:
    raise ValueError(
      f"{name} has a normalizer with a broken precompiled_charsmap: {error}"
    ) from error


def size(tokenizer: tokenizers.Tokenizer) -> int:
  """Returns the largest id plus one: ids need not be contiguous."""
  return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def special_ids(tokenizer: tokenizers.Tokenizer) -> list[int]:
  """Returns ids that are never predicted: special tokens, ids of no token."""
  known = set(tokenizer.get_vocab(with_added_tokens=True).values())
  special = set(range(size(tokenizer))) - known
  special.update(special_lib.of(tokenizer).ids)
  for token_id, token in tokenizer.get_added_tokens_decoder().items():
    if token.special:
      special.add(token_id)
  return sorted(special)


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Iterable[str]
) -> list[np.ndarray]:
  """Returns the uint32 token ids of each text, without special tokens.

  To bound memory, a long text is cut where no token of byte-level BPE or of
  WordPiece can span the cut, so the ids are those of the whole text. Runs in
  parallel.
  """
  found, batch, characters = [], [], 0
  for index, text in enumerate(texts):
    found.append([])
    for piece in _pieces(text):
      batch.append((index, piece))
      characters += len(piece)
      if characters >= _AT_ONCE:
        _encode_batch(tokenizer, batch, found)
        batch, characters = [], 0
  _encode_batch(tokenizer, batch, found)
  return [np.concatenate(ids) for ids in found]


def _encode_batch(
  tokenizer: tokenizers.Tokenizer,
  batch: list[tuple[int, str]],
  found: list[list[np.ndarray]],
) -> None:
  encodings = tokenizer.encode_batch_fast(
    [piece for _, piece in batch], add_special_tokens=False
  )
  for (index, _), encoding in zip(batch, encodings, strict=True):
    found[index].append(np.array(encoding.ids, dtype=np.uint32))


def _pieces(text: str) -> Iterator[str]:
  """Cuts a long text before single spaces between words.

  Byte-level BPE puts such a space at the start of a word, and WordPiece drops
  it, so no token spans the cut. If there is no such space for long, as in
  base64, the cut is arbitrary.
  """
  start = 0
  while len(text) - start > _PIECE:
    last = start + _LONGEST_PIECE
    space = _BETWEEN_WORDS.search(text, start + _PIECE, last)
    end = space.start() if space else min(last, len(text))
    yield text[start:end]
    start = end
  if start < len(text) or not text:
    yield text[start:]


def _plain(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
  """Disables every setting by which ids depend on more than the text."""
  # A document that spells out '<mask>' or '</s>' holds those characters, not
  # the special token. The setting is not part of tokenizer.json.
  tokenizer.encode_special_tokens = True
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer

"""Packs documents into a flat token stream, and cuts the stream into blocks.

This is RoBERTa's FULL-SENTENCES input (Liu et al., 2019, section 4.2):
documents are concatenated with `</s>` after each, and a block is `<s>` and the
next N - 1 tokens of the stream, across document boundaries. The stream is
stored and blocks are cut on the fly, so one cache serves all sequence lengths.
With a tokenizer of BERT's, `[CLS]`, `[SEP]` and `[PAD]` take their places.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from linformer_jax.data.text import special as special_lib


def stream(
  documents: Iterable[np.ndarray],
  dtype: np.dtype,
  special: special_lib.Special = special_lib.TRAINED,
) -> Iterator[np.ndarray]:
  """Yields each document's ids followed by `</s>`, as `dtype`."""
  for ids in documents:
    yield np.append(ids, special.eos).astype(dtype)


class BlockSource:
  """Random access to the blocks of a stream: `len(source)`, `source[i]`.

  A block is `{'tokens': int32 [N], 'mask': bool [N]}`. The tokens after the
  last full block are dropped, or kept in a block padded with `<pad>`, where
  the mask is False.

  Attributes:
    tokens: the stream, uint16 or uint32, usually a memory map.
    sequence_length: N.
    pad_last: whether the last, partial block is kept.
    special: the tokenizer's special tokens.
  """

  def __init__(
    self,
    tokens: np.ndarray,
    sequence_length: int,
    pad_last: bool,
    special: special_lib.Special = special_lib.TRAINED,
  ):
    if sequence_length < 2:
      raise ValueError(
        f"sequence_length is {sequence_length}; a block needs at least 2,"
        " <s> and a token"
      )
    # A plain array over the same map, as slicing np.memmap takes microseconds.
    self.tokens = np.asarray(tokens)
    self.sequence_length = sequence_length
    self.pad_last = pad_last
    self.special = special
    stride = sequence_length - 1
    full, rest = divmod(len(tokens), stride)
    self._length = full + (1 if pad_last and rest else 0)

  def __len__(self) -> int:
    return self._length

  def __repr__(self) -> str:
    return f"BlockSource({len(self)} blocks of {self.sequence_length})"

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    if not 0 <= index < self._length:
      raise IndexError(f"block {index} of {self._length}")
    stride = self.sequence_length - 1
    piece = self.tokens[index * stride : (index + 1) * stride]
    block = np.full(self.sequence_length, self.special.pad, dtype=np.int32)
    block[0] = self.special.bos
    block[1 : 1 + len(piece)] = piece
    mask = np.arange(self.sequence_length) <= len(piece)
    return {"tokens": block, "mask": mask}

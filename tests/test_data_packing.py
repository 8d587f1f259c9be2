"""Blocks hold the documents: nothing lost, nothing added."""

import numpy as np
import pytest

from linformer_jax.data.text import packing, special
from linformer_jax.data.text import tokenizer as tokenizer_lib

TEXTS = ["the cat sat on the mat", "", "naïve ☃", "a much longer one " * 9]


def tokens_of(source):
  """The stream again: without <s> and padding."""
  rows = [source[i] for i in range(len(source))]
  assert all(row["tokens"][0] == special.TRAINED.bos for row in rows)
  assert all(row["mask"][0] for row in rows)
  return np.concatenate([row["tokens"][row["mask"]][1:] for row in rows])


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizer_lib.train(TEXTS, 270)


@pytest.fixture(scope="module")
def stream(tokenizer):
  ids = tokenizer_lib.encode(tokenizer, TEXTS)
  return np.concatenate(list(packing.stream(ids, np.dtype("<u2"))))


@pytest.mark.parametrize("length", [2, 7, 32, 4096])
def test_decoding_the_blocks_returns_the_documents(tokenizer, stream, length):
  source = packing.BlockSource(stream, length, pad_last=True)
  tokens = tokens_of(source)
  np.testing.assert_array_equal(tokens, stream)
  ends = np.flatnonzero(tokens == special.TRAINED.eos)
  documents = np.split(tokens, ends + 1)[:-1]
  decoded = [tokenizer.decode(list(d[:-1])) for d in documents]
  assert decoded == TEXTS


@pytest.mark.parametrize("length", [2, 7, 32])
def test_only_a_partial_block_is_dropped(stream, length):
  source = packing.BlockSource(stream, length, pad_last=False)
  assert len(source) == len(stream) // (length - 1)
  kept = len(source) * (length - 1)
  np.testing.assert_array_equal(tokens_of(source), stream[:kept])
  assert all(source[i]["mask"].all() for i in range(len(source)))


def test_padding():
  source = packing.BlockSource(np.array([5, 6, 2], "<u2"), 3, pad_last=True)
  assert len(source) == 2
  assert source[0]["tokens"].tolist() == [0, 5, 6]
  assert source[1]["tokens"].tolist() == [0, 2, 1]
  assert source[1]["mask"].tolist() == [True, True, False]
  assert source[1]["tokens"].dtype == np.int32


def test_an_exact_fit_has_no_padded_block():
  source = packing.BlockSource(np.arange(4, 10), 4, pad_last=True)
  assert len(source) == 2 and source[1]["mask"].all()


def test_bounds():
  source = packing.BlockSource(np.arange(4, 10), 4, pad_last=True)
  with pytest.raises(IndexError, match="2 of 2"):
    source[2]
  with pytest.raises(IndexError):
    source[-1]
  with pytest.raises(ValueError, match="sequence_length is 1"):
    packing.BlockSource(np.arange(4), 1, pad_last=True)

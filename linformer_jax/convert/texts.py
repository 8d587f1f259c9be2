"""Texts of a conversion: rows of tokens, and what models make of them."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linformer_jax import loading
from linformer_jax.convert import distill
from linformer_jax.data.text import masking
from linformer_jax.data.text import source as source_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib

BATCH = 8
_HELD_OUT, _MEASURED = 10, 64  # every tenth text, and at most so many
_MASKED = 0.15  # of the tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
  """Rows of tokens with their masks, all of one length.

  Attributes:
    tokens: int32 [B, N], one text a row, truncated.
    mask: bool [B, N].
  """

  tokens: np.ndarray
  mask: np.ndarray

  @property
  def parts(self) -> tuple["Texts", "Texts"]:
    """Texts to fit to, and others to measure on; the same if there are few."""
    if len(self.tokens) < _HELD_OUT:
      return self, self
    held = np.arange(len(self.tokens)) % _HELD_OUT == 0
    return self[~held], self[held][:_MEASURED]

  def __getitem__(self, index) -> "Texts":
    return Texts(self.tokens[index], self.mask[index])

  def batches(self) -> Iterator["Texts"]:
    """Yields all rows in batches of one shape; the last may have fewer."""
    for i in range(0, len(self.tokens), BATCH):
      yield self[i : i + BATCH]


def read(run: loading.Run, files: str, length: int) -> Texts:
  """Reads texts as rows of at most `length` tokens.

  Rows have the least power of two of tokens that holds all texts.

  Raises:
    ValueError: for files that are missing or cannot be read.
  """
  special = run.special
  room = special.room(length, paired=False)
  found = tokenizer_lib.encode(
    run.tokenizer, source_lib.files(files, "text").train()
  )
  rows = [
    [special.bos, *ids[:room].tolist(), special.eos]
    for ids in found
    if len(ids)
  ]
  if not rows:
    raise ValueError(f"--texts={files}: there is no text")
  longest = max(map(len, rows))
  width = min(length, 1 << (longest - 1).bit_length())
  tokens = np.full((len(rows), width), special.pad, np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  sizes = np.array([len(ids) for ids in rows])
  return Texts(tokens, np.arange(width) < sizes[:, None])


@functools.partial(jax.jit, static_argnums=0)
def _sums(model, variables, batch):
  """Returns the nats at hidden tokens, and their number."""
  logits = model.apply(
    variables, *(batch[x] for x in ("tokens", "mask", "positions"))
  )
  each = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch["targets"]
  )
  return jnp.sum(each * batch["weights"]), jnp.sum(batch["weights"])


def loss(run: loading.Run, texts: Texts) -> float:
  """Returns the nats per hidden token, the same ones for every model."""
  known = masking.vocabulary(
    tokenizer_lib.size(run.tokenizer),
    tokenizer_lib.special_ids(run.tokenizer),
    run.special.mask,
  )
  rng = np.random.default_rng(0)
  count = masking.num_predictions(texts.tokens.shape[1], _MASKED)
  total = np.zeros(2)
  for part in texts.batches():
    rows = [
      masking.mask_tokens(*row, rng, known, count)
      for row in zip(part.tokens, part.mask, strict=True)
    ]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    total += np.array(_sums(run.model, run.variables, batch))
  return total[0] / total[1]


@functools.partial(jax.jit, static_argnums=0)
def _means(config, variables, tokens, mask):
  return distill.mean_rows(distill.Encoder(config, variables), tokens, mask)


def means(encoder: distill.Encoder, texts: Texts) -> np.ndarray:
  """Returns the mean [B, M] of the last layer's rows of each text."""
  found = [
    _means(encoder.config, encoder.variables, part.tokens, part.mask)
    for part in texts.batches()
  ]
  return np.concatenate(found)


def difference(original, converted, texts: Texts) -> tuple[float, float]:
  """Returns the relative error of mean-pooled texts, and their mean cosine."""
  exact, got = means(original, texts), means(converted, texts)
  norms = [np.linalg.norm(x, axis=1) for x in (exact, got)]
  cosine = np.mean(np.sum(exact * got, axis=1) / (norms[0] * norms[1]))
  return np.linalg.norm(exact - got) / np.linalg.norm(exact), float(cosine)

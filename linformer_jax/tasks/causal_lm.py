"""Causal language modeling: each token is predicted from those before it.

A batch:
  tokens     int32 [B, N]    `<s>` and the tokens of a block
  mask       bool [B, N]     True at real tokens; validation only, as training
                             blocks are full
  targets    int32 [B, N]    the next token; 0 where the weight is 0
  weights    float32 [B, N]  1 where a real token follows

With `document_mask`, a document begins with `<s>` in place of the `</s>` that
ends the one before it and is that one's last target; and in place of mask:
  documents  int32 [B, N]    the document of each token, from 1; 0 at padding
"""

import dataclasses
from typing import ClassVar

import numpy as np

from linformer_jax import flops, models
from linformer_jax.data.text import special as special_lib
from linformer_jax.tasks import language
from linformer_jax.tasks.field import Field


@dataclasses.dataclass(frozen=True)
class Config:
  """The `task` group of the configuration.

  Attributes:
    document_mask: whether tokens see those of their own document alone. If not,
      they see all that precede them in their block.
  """

  document_mask: bool = False

  def build(self, model: models.ModelConfig, length: int) -> "CausalLM":
    """Makes the task for rows of N tokens.

    Raises:
      ValueError: for an attention that does not keep documents apart.
    """
    if self.document_mask:
      for kind in model.layers:
        kind.check_documents()
    return CausalLM(model, length, self.document_mask)


@dataclasses.dataclass(frozen=True)
class CausalLM(language.LanguageModeling):
  """See `tasks.Task`."""

  model: models.ModelConfig
  length: int
  document_mask: bool = False

  unit: ClassVar[str] = "tokens"

  @property
  def outputs(self) -> int:
    """Logits per row."""
    return self.length * self.model.vocab_size

  def module(self) -> models.CausalLM:
    """Returns the causal encoder with its tied head."""
    return models.CausalLM(self.model)

  def spec(self, masked: bool) -> dict[str, Field]:
    """Returns tokens, their mask or documents, targets and weights."""
    shape, axes = (self.length,), ("sequence",)
    rows = self.token_fields(masked and not self.document_mask)
    if self.document_mask:
      rows["documents"] = Field(shape, np.int32, axes)
    return rows | {
      "targets": Field(shape, np.int32, axes),
      "weights": Field(shape, np.float32, axes),
    }

  def example(self, record, rng, data) -> dict[str, np.ndarray]:
    """Shifts a block by one token."""
    del rng
    special = data.special if self.document_mask else None
    return self._shifted(record["tokens"], record["mask"], special)

  def _shifted(self, tokens, mask, special):
    """Returns a row; special tokens are read if documents are kept apart."""
    follows = np.append(mask[1:], False)
    row = {
      "targets": np.where(follows, np.roll(tokens, -1), 0).astype(np.int32),
      "weights": follows.astype(np.float32),
    }
    if not self.document_mask:
      return row | {"tokens": tokens, "mask": mask}
    ends = mask & (tokens == special.eos)
    documents = np.where(mask, 1 + np.cumsum(ends), 0).astype(np.int32)
    tokens = np.where(ends, special.bos, tokens).astype(np.int32)
    return row | {"tokens": tokens, "documents": documents}

  def filler(self) -> dict[str, np.ndarray]:
    """Returns an empty row, in which no token follows another."""
    empty = self.empty()
    return self._shifted(empty["tokens"], empty["mask"], special_lib.TRAINED)

  def sums(self, variables, batch, key=None):
    """See `language.token_sums`."""
    logits = self.logits(variables, batch, key)
    return language.token_sums(logits, batch["targets"], batch["weights"])

  def flops(self) -> int:
    """Counts the encoder, and the tied head at every position."""
    return flops.encoder(self.model, self.length) + flops.token_head(
      self.model, self.length
    )

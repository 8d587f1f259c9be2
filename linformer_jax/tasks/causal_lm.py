"""Causal language modeling: each token is predicted from those before it.

A batch:
  tokens   int32 [B, N]    `<s>` and the tokens of a block
  mask     bool [B, N]     True at real tokens; validation only, as training
                           blocks are full
  targets  int32 [B, N]    the next token; 0 where the weight is 0
  weights  float32 [B, N]  1 where a real token follows
"""

import dataclasses
from typing import ClassVar

import numpy as np

from linformer_jax import flops, models
from linformer_jax.tasks import language
from linformer_jax.tasks.field import Field


@dataclasses.dataclass(frozen=True)
class Config:
  """No fields besides the task's name."""

  def build(self, model: models.ModelConfig, length: int) -> "CausalLM":
    """Makes the task for rows of N tokens."""
    return CausalLM(model, length)


@dataclasses.dataclass(frozen=True)
class CausalLM(language.LanguageModeling):
  """See `tasks.Task`."""

  model: models.ModelConfig
  length: int

  unit: ClassVar[str] = "tokens"

  @property
  def outputs(self) -> int:
    """Logits per row."""
    return self.length * self.model.vocab_size

  def module(self) -> models.CausalLM:
    """Returns the causal encoder with its tied head."""
    return models.CausalLM(self.model)

  def spec(self, masked: bool) -> dict[str, Field]:
    """Returns tokens, their mask, targets and weights."""
    shape, axes = (self.length,), ("sequence",)
    return self.token_fields(masked) | {
      "targets": Field(shape, np.int32, axes),
      "weights": Field(shape, np.float32, axes),
    }

  def example(self, record, rng, data) -> dict[str, np.ndarray]:
    """Shifts a block by one token."""
    del rng, data
    tokens, mask = record["tokens"], record["mask"]
    follows = np.append(mask[1:], False)
    return {
      "tokens": tokens,
      "mask": mask,
      "targets": np.where(follows, np.roll(tokens, -1), 0).astype(np.int32),
      "weights": follows.astype(np.float32),
    }

  def filler(self) -> dict[str, np.ndarray]:
    """Returns an empty row, in which no token follows another."""
    return self.example(self.empty(), None, None)

  def sums(self, variables, batch, key=None):
    """See `language.token_sums`."""
    logits = self.logits(variables, batch, key)
    return language.token_sums(logits, batch["targets"], batch["weights"])

  def flops(self) -> int:
    """Counts the encoder, and the tied head at every position."""
    return flops.encoder(self.model, self.length) + flops.token_head(
      self.model, self.length
    )

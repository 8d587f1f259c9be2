"""Masked language modeling (Devlin et al. 2019; RoBERTa's dynamic masks).

A batch; P is the static number of predictions in a row:
  tokens     int32 [B, N]    after masking
  mask       bool [B, N]     True at real tokens; validation only, as training
                             blocks are full
  positions  int32 [B, P]    ascending; 0 where the weight is 0
  targets    int32 [B, P]    the original tokens
  weights    float32 [B, P]  1 for a prediction, 0 for none
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from linformer_jax import flops, models
from linformer_jax.data.text import masking
from linformer_jax.parallel import layout
from linformer_jax.tasks import language
from linformer_jax.tasks.field import Field


@dataclasses.dataclass(frozen=True)
class Config:
  """The fields of `config.task`.

  Attributes:
    mask_rate: fraction of a row's tokens to predict.
    mask_span: tokens that are masked together; 1 for each by itself.
  """

  mask_rate: float = 0.15
  mask_span: int = 1

  def __post_init__(self):
    if not 0 < self.mask_rate < 1:
      raise ValueError(f"task.mask_rate {self.mask_rate} is not in (0, 1)")
    if self.mask_span < 1:
      raise ValueError(f"task.mask_span {self.mask_span} is less than 1")

  def build(self, model: models.ModelConfig, length: int) -> "MaskedLM":
    """Makes the task for rows of N tokens."""
    if self.mask_span > max(1, length - 1):
      raise ValueError(
        f"task.mask_span {self.mask_span} must be less than the "
        f"{length} tokens of a row: shorten it"
      )
    return MaskedLM(self, model, length)


@dataclasses.dataclass(frozen=True)
class MaskedLM(language.LanguageModeling):
  """See `tasks.Task`."""

  config: Config
  model: models.ModelConfig
  length: int

  unit: ClassVar[str] = "masked tokens"

  @property
  def predictions(self) -> int:
    """P."""
    return masking.num_predictions(
      self.length, self.config.mask_rate, self.config.mask_span
    )

  @property
  def outputs(self) -> int:
    """Logits per row."""
    return self.predictions * self.model.vocab_size

  def module(self) -> models.MaskedLM:
    """The encoder with RoBERTa's head."""
    return models.MaskedLM(self.model)

  def spec(self, masked: bool) -> dict[str, Field]:
    """Returns tokens, their mask, positions, targets and weights."""
    predictions = (self.predictions,)
    return self.token_fields(masked) | {
      "positions": Field(predictions, np.int32, (None,)),
      "targets": Field(predictions, np.int32, (None,)),
      "weights": Field(predictions, np.float32, (None,)),
    }

  def example(self, record, rng, data) -> dict[str, np.ndarray]:
    """Masks P tokens of a block."""
    return masking.mask_tokens(
      record["tokens"],
      record["mask"],
      rng,
      data.vocabulary,
      self.predictions,
      self.config.mask_span,
    )

  def filler(self) -> dict[str, np.ndarray]:
    """Returns an empty row that predicts nothing."""
    return self.empty() | {
      "positions": np.zeros(self.predictions, np.int32),
      "targets": np.zeros(self.predictions, np.int32),
      "weights": np.zeros(self.predictions, np.float32),
    }

  def sums(self, variables, batch, key=None):
    """See `language.token_sums`."""
    names = ("positions", "targets", "weights")
    # Pad with weight 0, so the sequence axis of the mesh divides P.
    short = -batch["positions"].shape[1] % layout.shards("sequence")
    positions, targets, weights = (
      jnp.pad(batch[name], [(0, 0), (0, short)]) for name in names
    )
    logits = self.logits(variables, batch, key, positions=positions)
    return language.token_sums(logits, targets, weights)

  def flops(self) -> int:
    """Counts the encoder, and the head at P positions."""
    return flops.encoder(self.model, self.length) + flops.token_head(
      self.model, self.predictions, dense=True
    )

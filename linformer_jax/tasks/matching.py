"""Classification of pairs by two towers, as for retrieval.

Each text is encoded alone, by the same weights: a document's row can be kept
and compared with many. A batch:
  tokens  int32 [B, 2, N]  `<s> text </s>` of each text, as in `texts`
  mask    bool [B, 2, N]   True at real tokens
  label   int32 [B]
  weight  float32 [B]   0 for a row that pads a batch
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from linformer_jax import flops, models
from linformer_jax.tasks import classification, texts
from linformer_jax.tasks.field import Field

_NONE = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Config(classification.Config):
  """The fields of `config.task`, which are those of a classification."""

  def build(self, model: models.ModelConfig, length: int) -> "Matching":
    """Makes the task for pairs of rows of N tokens."""
    texts.check(model, length)
    return Matching(self, model, length)


@dataclasses.dataclass(frozen=True)
class Matching(classification.Classification):
  """See `tasks.Task`."""

  separate: ClassVar[bool] = True

  def module(self) -> models.Matcher:
    """Two encoders with one set of weights, and a head on both."""
    return models.Matcher(self.model, self.config.num_classes)

  def spec(self, masked: bool) -> dict[str, Field]:
    """Tokens of both texts, their mask, the label and its weight."""
    fields = super().spec(masked)
    fields.pop("segments", None)
    for name in fields.keys() & {"tokens", "mask"}:
      one = fields[name]
      fields[name] = Field((2, *one.shape), one.dtype, (None, *one.axes))
    return fields

  def example(self, record, rng, data) -> dict[str, np.ndarray]:
    """Truncates and pads both texts of a record."""
    towers = [
      super(Matching, self).example(
        record | {"text": record[name], "pair": _NONE}, rng, data
      )
      for name in ("text", "pair")
    ]
    return self._both(*towers)

  def filler(self) -> dict[str, np.ndarray]:
    """Returns a pair of empty rows of weight 0."""
    return self._both(*[super().filler()] * 2)

  def init_arguments(self):
    """Returns tokens of the model's max_length."""
    return (jnp.zeros((1, 2, self.model.max_length), jnp.int32),)

  def floor(self, data, batches) -> float:
    """See `Classification.floor`; also refuses a text without a second one."""
    splits = {"training": data.train, "validation": data.validation}
    for split, rows in splits.items():
      alone = np.flatnonzero(rows.lengths[:, 1] == 0)
      if len(alone):
        raise ValueError(
          f"{split} row {alone[0]} has no second text ({len(alone):,} such "
          "rows), and task 'matching' compares two: fill it in, or use task "
          "'classification'"
        )
    return super().floor(data, batches)

  def flops(self) -> int:
    """Counts both encoders, and the head on four rows."""
    m = self.model.embed_dim
    head = 8 * m * m + 2 * m * self.outputs
    return 2 * flops.encoder(self.model, self.length) + head

  @staticmethod
  def _both(first, second):
    rows = first | {
      name: np.stack([first[name], second[name]]) for name in ("tokens", "mask")
    }
    rows.pop("segments", None)
    return rows

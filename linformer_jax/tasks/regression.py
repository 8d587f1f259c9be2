"""Regression on texts, or pairs of texts; see `texts` for the rows.

The head has one output and the loss is the squared error, as RoBERTa does for
STS-B (arXiv 1907.11692, section 5.1).
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from linformer_jax import models
from linformer_jax.tasks import texts


@dataclasses.dataclass(frozen=True)
class Config:
  """The fields of `config.task`: none."""

  def build(self, model: models.ModelConfig, length: int) -> "Regression":
    """Makes the task for rows of N tokens."""
    texts.check(model, length)
    return Regression(self, model, length)


@dataclasses.dataclass(frozen=True)
class Regression(texts.TextRows):
  """See `tasks.Task`."""

  config: Config
  model: models.ModelConfig
  length: int

  headline: ClassVar[str] = "pearson"
  number: ClassVar[str] = ".3f"
  floor_name: ClassVar[str] = "constant_pearson"
  outputs: ClassVar[int] = 1
  label_type = np.float32

  def module(self) -> models.Classifier:
    """The encoder with RoBERTa's head and one output."""
    return models.Classifier(self.model, 1)

  def label_of(self, record, data) -> int | float:
    """Returns the number itself where integers were taken for classes."""
    if data.labels:
      return data.labels[record["label"]]
    return record["label"]

  def sums(self, variables, batch, key=None):
    """Sums of squared errors, and the moments of answers and labels."""
    answer = self.outputs_of(variables, batch, key)[:, 0]
    label, weight = batch["label"], batch["weight"]
    return {
      "loss": jnp.sum((answer - label) ** 2 * weight),
      "weight": jnp.sum(weight),
      "answers": jnp.sum(answer * weight),
      "labels": jnp.sum(label * weight),
      "answers_squared": jnp.sum(answer**2 * weight),
      "labels_squared": jnp.sum(label**2 * weight),
      "products": jnp.sum(answer * label * weight),
    }

  def metrics(self, sums):
    """Mean squared error, and Pearson's correlation; 0 if it is not defined."""
    weight = float(sums["weight"])
    x, y, xx, yy, xy = (
      float(sums[name]) / weight
      for name in ("answers", "labels", "answers_squared", "labels_squared",
                   "products")
    )  # fmt: skip
    spread = (xx - x * x) * (yy - y * y)
    pearson = (xy - x * y) / math.sqrt(spread) if spread > 0 else 0.0
    return {"loss": float(sums["loss"]) / weight, "pearson": pearson}

  def floor(self, data, batches) -> float:
    """Returns 0, the correlation of a constant answer.

    Raises:
      ValueError: if the labels are names, or as `check_pairs`.
    """
    del batches
    self.check_pairs(data)
    if data.labels and not all(isinstance(x, int) for x in data.labels):
      raise ValueError(
        f"the labels are names, such as {data.labels[0]!r}, and a regression "
        "needs numbers: set task to classification"
      )
    return 0.0

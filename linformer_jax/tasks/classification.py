"""Classification of texts, or pairs of texts; see `texts` for the rows."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from linformer_jax import models
from linformer_jax.tasks import language, texts

# Keys in result.json of what a constant answer scores, by metric.
_FLOORS = {
  "accuracy": "majority_accuracy",
  "f1": "constant_f1",
  "matthews": "constant_matthews",
}


@dataclasses.dataclass(frozen=True)
class Config:
  """The fields of `config.task`.

  Attributes:
    num_classes: C, at least the number of labels in the training texts.
    metric: the headline, 'accuracy'; or, with two classes, 'f1' of the second
      label or 'matthews', the Matthews correlation coefficient. GLUE (Wang et
      al. 2019, arXiv 1804.07461) has F1 for MRPC and QQP and the latter for
      CoLA.
  """

  num_classes: int = 2
  metric: str = "accuracy"

  def __post_init__(self):
    if self.metric not in _FLOORS:
      raise ValueError(
        f"task.metric {self.metric!r} is not one of {', '.join(_FLOORS)}"
      )
    if self.metric != "accuracy" and self.num_classes != 2:
      raise ValueError(
        f"task.metric {self.metric!r} needs two classes, not task.num_classes "
        f"{self.num_classes}: set task.metric=accuracy"
      )
    if not 2 <= self.num_classes < 2**20:
      raise ValueError(
        f"task.num_classes {self.num_classes} is not from 2 to 2^20 - 1"
      )

  def build(self, model: models.ModelConfig, length: int) -> "Classification":
    """Makes the task for rows of N tokens."""
    texts.check(model, length)
    return Classification(self, model, length)


@dataclasses.dataclass(frozen=True)
class Classification(texts.TextRows):
  """See `tasks.Task`."""

  config: Config
  model: models.ModelConfig
  length: int

  @property
  def headline(self) -> str:
    """The metric that the config names."""
    return self.config.metric

  @property
  def number(self) -> str:
    """Shares as percentages, correlations as numbers."""
    return ".3f" if self.headline == "matthews" else ".1%"

  @property
  def floor_name(self) -> str:
    """See `floor`."""
    return _FLOORS[self.headline]

  @property
  def outputs(self) -> int:
    """Logits per row."""
    return self.config.num_classes

  def module(self) -> models.Classifier:
    """The encoder with RoBERTa's classification head."""
    return models.Classifier(self.model, self.config.num_classes)

  def sums(self, variables, batch, key=None):
    """See `language.token_sums`; a row is one prediction."""
    logits = self.outputs_of(variables, batch, key)
    label, weight = batch["label"], batch["weight"]
    found = language.token_sums(logits, label, weight)
    if self.config.num_classes == 2:
      answer = jnp.argmax(logits, axis=-1)
      found |= {
        "answered": jnp.sum(answer * weight),  # with the second label
        "labeled": jnp.sum(label * weight),
        "hits": jnp.sum(answer * label * weight),
      }
    return found

  def metrics(self, sums):
    """Loss in nats and accuracy; of two classes F1 and Matthews' coefficient.

    The latter two are 0 where they are not defined.
    """
    weight = float(sums["weight"])
    found = {
      "loss": float(sums["loss"]) / weight,
      "accuracy": float(sums["correct"]) / weight,
    }
    if "hits" in sums:
      answered, labeled, hits = (
        float(sums[name]) for name in ("answered", "labeled", "hits")
      )
      spread = answered * (weight - answered) * labeled * (weight - labeled)
      covariance = weight * hits - answered * labeled
      found["f1"] = 2 * hits / max(answered + labeled, 1.0)
      found["matthews"] = covariance / math.sqrt(spread) if spread > 0 else 0.0
    return found

  def floor(self, data, batches) -> float:
    """Returns what a constant answer scores.

    The accuracy of the most frequent training label, the F1 of the second label
    for all, or Matthews' coefficient, 0.

    Raises:
      ValueError: if labels are floats, if there are more labels than the head
        has classes, or as `check_pairs`.
    """
    del batches
    self.check_pairs(data)
    if not data.labels:
      raise ValueError(
        "the labels are floats, such as "
        f"{data.train.labels[0]:g}, which are no classes: write integers or "
        "names"
      )
    if len(data.labels) > self.config.num_classes:
      raise ValueError(
        f"the data has {len(data.labels)} labels, and task.num_classes is "
        f"{self.config.num_classes}"
      )
    held = data.validation.labels
    if self.headline == "accuracy":
      return float(np.mean(held == np.bincount(data.train.labels).argmax()))
    share = float(np.mean(held == 1))
    return 2 * share / (1 + share) if self.headline == "f1" else 0.0

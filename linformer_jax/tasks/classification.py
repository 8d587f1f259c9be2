"""Classification of texts, or pairs of texts, mostly shorter than N.

A row is `<s> text </s>`, or `<s> text </s> </s> pair </s>` as in RoBERTa. The
longer text is truncated until both fit, and the row is padded. A batch:
  tokens  int32 [B, N]
  mask    bool [B, N]   True at real tokens
  segments  int32 [B, N]  1 from the pair's first token to its `</s>`, else 0;
                          only if `model.num_segments` is not 0
  label   int32 [B]
  weight  float32 [B]   0 for a row that pads a batch
"""

import dataclasses
from typing import ClassVar

import numpy as np

from linformer_jax import flops, models
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.tasks import language
from linformer_jax.tasks.field import Field


@dataclasses.dataclass(frozen=True)
class Config:
  """The fields of `config.task`.

  Attributes:
    num_classes: C, at least the number of labels in the training texts.
  """

  num_classes: int = 2

  def __post_init__(self):
    if not 2 <= self.num_classes < 2**20:
      raise ValueError(
        f"task.num_classes {self.num_classes} is not from 2 to 2^20 - 1"
      )

  def build(self, model: models.ModelConfig, length: int) -> "Classification":
    """Makes the task for rows of N tokens."""
    if model.num_segments == 1:
      raise ValueError("model.num_segments 1 cannot tell a pair: 0, or 2")
    if length < 8:
      raise ValueError(
        f"data.sequence_length {length} leaves no room for texts: at least 8"
      )
    return Classification(self, model, length)


@dataclasses.dataclass(frozen=True)
class Classification(language.TokenRows):
  """See `tasks.Task`."""

  config: Config
  model: models.ModelConfig
  length: int

  headline: ClassVar[str] = "accuracy"
  number: ClassVar[str] = ".1%"
  scale: ClassVar[str] = "linear"
  unit: ClassVar[str] = "texts"
  floor_name: ClassVar[str] = "majority_accuracy"
  short: ClassVar[bool] = True

  @property
  def outputs(self) -> int:
    """Logits per row."""
    return self.config.num_classes

  def module(self) -> models.Classifier:
    """The encoder with RoBERTa's classification head."""
    return models.Classifier(self.model, self.config.num_classes)

  def spec(self, masked: bool) -> dict[str, Field]:
    """Tokens, their mask and segments, the label and its weight."""
    fields = self.token_fields(masked) | {
      "label": Field((), np.int32, ()),
      "weight": Field((), np.float32, ()),
    }
    if self.model.num_segments:
      fields["segments"] = fields["tokens"]
    return fields

  def example(self, record, rng, data) -> dict[str, np.ndarray]:
    """Joins, truncates and pads the texts of a record."""
    del rng, data
    text, pair = record["text"], record["pair"]
    bos, eos = [tokenizer_lib.BOS_ID], [tokenizer_lib.EOS_ID]
    if len(pair):
      room = self.length - 4
      first = max(room - len(pair), min(len(text), room // 2))
      text, pair = text[:first], pair[: room - min(len(text), first)]
      tokens = np.concatenate([bos, text, eos, eos, pair, eos])
    else:
      tokens = np.concatenate([bos, text[: self.length - 2], eos])
    row = self.padded(tokens)
    if self.model.num_segments:
      after = np.arange(self.length) >= len(tokens) - len(pair) - 1
      row["segments"] = (after & row["mask"] & bool(len(pair))).astype(np.int32)
    label = {"label": np.int32(record["label"]), "weight": np.float32(1)}
    return row | label

  def filler(self) -> dict[str, np.ndarray]:
    """Returns an empty row of weight 0."""
    row = self.empty() | {"label": np.int32(0), "weight": np.float32(0)}
    if self.model.num_segments:
      row["segments"] = np.zeros(self.length, np.int32)
    return row

  def sums(self, variables, batch, key=None):
    """See `language.token_sums`; a row is one prediction."""
    segments = {"segments": batch["segments"]} if "segments" in batch else {}
    logits = self.logits(variables, batch, key, **segments)
    return language.token_sums(logits, batch["label"], batch["weight"])

  def metrics(self, sums):
    """Loss in nats and accuracy."""
    weight = float(sums["weight"])
    return {
      "loss": float(sums["loss"]) / weight,
      "accuracy": float(sums["correct"]) / weight,
    }

  def floor(self, data, batches) -> float:
    """Returns the accuracy of the most frequent training label.

    Raises:
      ValueError: if labels are floats, or if there are more labels than the
        head has classes.
    """
    del batches
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
    majority = np.bincount(data.train.labels).argmax()
    return float(np.mean(data.validation.labels == majority))

  def flops(self) -> int:
    """Counts the encoder, and the classification head at one position."""
    m = self.model.embed_dim
    head = 2 * m * m + 2 * m * self.config.num_classes
    return flops.encoder(self.model, self.length) + head

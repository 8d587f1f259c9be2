"""What tasks on short texts share: rows of one text, or of a pair.

A row is `<s> text </s>`, or `<s> text </s> </s> pair </s>` as in RoBERTa; with
BERT's tokenizers, `[CLS] text [SEP]` or `[CLS] text [SEP] pair [SEP]`. The
longer text is truncated until both fit, and the row is padded. A batch:
  tokens  int32 [B, N]
  mask    bool [B, N]   True at real tokens
  segments  int32 [B, N]  1 from the pair's first token to its `</s>`, else 0;
                          only if `model.num_segments` is not 0. The `[SEP]`
                          between two texts has 0
  label   int32 [B], or float32 [B] in a regression
  weight  float32 [B]   0 for a row that pads a batch
"""

from typing import Any, ClassVar

import numpy as np

from linformer_jax import flops, models
from linformer_jax.tasks import language
from linformer_jax.tasks.field import Field


def check(model: models.ModelConfig, length: int) -> None:
  """Raises a ValueError for a model or a length that no row fits."""
  if model.num_segments == 1:
    raise ValueError("model.num_segments 1 cannot tell a pair: 0, or 2")
  if length < 8:
    raise ValueError(
      f"data.sequence_length {length} leaves no room for texts: at least 8"
    )


class TextRows(language.TokenRows):
  """Mixin of tasks on texts; the task has `outputs` beside `TokenRows`'."""

  scale: ClassVar[str] = "linear"
  unit: ClassVar[str] = "texts"
  larger_is_better: ClassVar[bool] = True
  short: ClassVar[bool] = True
  label_type: ClassVar[Any] = np.int32
  separate: ClassVar[bool] = False  # whether texts of a pair are two rows

  def spec(self, masked: bool) -> dict[str, Field]:
    """Tokens, their mask and segments, the label and its weight."""
    fields = self.token_fields(masked) | {
      "label": Field((), self.label_type, ()),
      "weight": Field((), np.float32, ()),
    }
    if self.model.num_segments:
      fields["segments"] = fields["tokens"]
    return fields

  def example(self, record, rng, data) -> dict[str, np.ndarray]:
    """Joins, truncates and pads the texts of a record.

    `data` is anything with the tokenizer's `special` tokens and `labels`.
    """
    del rng
    text, pair, special = record["text"], record["pair"], data.special
    bos, eos = [special.bos], [special.eos]
    room = special.room(self.length, bool(len(pair)))
    if len(pair):
      # As in BERT, the longer text keeps the odd token; other rows stay as they
      # were in earlier versions.
      odd = special.is_bert and len(text) > len(pair)
      first = max(room - len(pair), min(len(text), (room + odd) // 2))
      text, pair = text[:first], pair[: room - min(len(text), first)]
      joined = [bos, text, special.between, pair, eos]
    else:
      joined = [bos, text[:room], eos]
    tokens = np.concatenate(joined)
    row = self.padded(tokens, special.pad)
    if self.model.num_segments:
      after = np.arange(self.length) >= len(tokens) - len(pair) - 1
      row["segments"] = (after & row["mask"] & bool(len(pair))).astype(np.int32)
    label = {
      "label": self.label_type(self.label_of(record, data)),
      "weight": np.float32(1),
    }
    return row | label

  def check_pairs(self, data) -> None:
    """Raises a ValueError unless `data` counts the tokens of these rows."""
    if data.train.separate != self.separate:
      raise ValueError(
        f"data.separate_pairs is {data.train.separate}, and the task makes of a"
        f" pair {'two rows' if self.separate else 'one row'}: set "
        f"data.separate_pairs={self.separate}"
      )

  def label_of(self, record, data) -> int | float:
    """Returns the target of a record."""
    del data
    return record["label"]

  def filler(self) -> dict[str, np.ndarray]:
    """Returns an empty row of weight 0."""
    row = self.empty() | {"label": self.label_type(0), "weight": np.float32(0)}
    if self.model.num_segments:
      row["segments"] = np.zeros(self.length, np.int32)
    return row

  def outputs_of(self, variables, batch, key):
    """Returns the head's outputs, float32 [B, C]."""
    segments = {"segments": batch["segments"]} if "segments" in batch else {}
    return self.logits(variables, batch, key, **segments)

  def flops(self) -> int:
    """Counts the encoder, and the head at one position."""
    m = self.model.embed_dim
    head = 2 * m * m + 2 * m * self.outputs
    return flops.encoder(self.model, self.length) + head

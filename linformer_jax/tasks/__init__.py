"""Tasks: what a model predicts and how it is scored, one file each.

Only a task names the fields of a batch, its metrics, and the baseline of a
model that learned nothing. To add a task, write a file with a frozen dataclass
`Config`, which holds the fields of `config.task` and whose `build` returns a
`Task`, and add a row to `TASKS`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import numpy as np

from linformer_jax.models import ModelConfig
from linformer_jax.tasks import (
  causal_lm,
  classification,
  masked_lm,
  matching,
  regression,
)
from linformer_jax.tasks.field import Field

__all__ = ["TASKS", "Field", "Task", "create"]

TASKS = {
  "masked_lm": masked_lm.Config,
  "causal_lm": causal_lm.Config,
  "classification": classification.Config,
  "regression": regression.Config,
  "matching": matching.Config,
}


class Task(Protocol):
  """A task for rows of one length N, on one model.

  Attributes:
    headline: main metric, in the progress line, the curve and result.json.
    number: format of the headline and its floor, such as '.2f'.
    scale: axis scale of the curve, 'log' or 'linear'.
    unit: what a weight of 1 counts, in the plural, such as 'masked tokens'.
    floor_name: key of `floor` in result.json.
    larger_is_better: whether a model improves as its headline grows.
    short: whether training rows may hold fewer than N real positions.
    length: N, positions in a row.
    outputs: float32 outputs of the head per row.
  """

  headline: ClassVar[str]
  number: ClassVar[str]
  scale: ClassVar[str]
  unit: ClassVar[str]
  floor_name: ClassVar[str]
  larger_is_better: ClassVar[bool]
  short: ClassVar[bool]
  length: int
  outputs: int

  def module(self) -> nn.Module:
    """Returns the module: inputs, encoder and head."""

  def spec(self, masked: bool) -> dict[str, Field]:
    """Returns the fields of a batch by name, with a padding mask if `masked`.

    Validation batches are masked; training batches only if `short`.
    """

  def example(self, record, rng: np.random.Generator, data) -> dict:
    """Makes one row of each field, mask included, from a record.

    Args:
      record: an element of `data.train` or `data.validation`.
      rng: the only source of randomness, seeded by seed, epoch and record.
      data: the corpus returned by `data.pipeline.prepare`.
    """

  def filler(self) -> dict[str, np.ndarray]:
    """Returns a row of weight 0, to pad the last batch of a split."""

  def init_arguments(self) -> tuple:
    """Returns the arguments that initialize the module."""

  def sums(self, variables, batch, key=None) -> dict[str, jax.Array]:
    """Returns float32 sums over a batch, additive over parts and devices.

    Args:
      variables: parameters and constants of the module.
      batch: arrays [B, ...] by field; the padding mask is optional.
      key: dropout key, or None for no dropout.

    Returns:
      'loss', whose gradient divided by 'weight' the optimizer takes; 'weight';
      and what the metrics need. Layers' auxiliary losses reach training if
      the module is applied by `auxiliary.apply`.
    """

  def metrics(self, sums: dict[str, float]) -> dict[str, float]:
    """Returns 'loss', the headline and other metrics from total sums."""

  def floor(self, data, batches: Iterable[dict[str, np.ndarray]]) -> float:
    """Returns the headline baseline over all validation batches."""

  def flops(self) -> int:
    """Returns the FLOPs of a forward pass on one row."""


def create(config: Any, model: ModelConfig) -> Task:
  """Makes the task of a config.

  Args:
    config: a full experiment config, as in configs/base.py.
    model: its validated `model` group.

  Raises:
    ValueError: for a task not in `TASKS`, or unknown or missing fields; those
      with a default may be missing.
  """
  fields = config.task.to_dict()
  name = fields.pop("name")
  if name not in TASKS:
    raise ValueError(f"task.name {name!r} is not one of {', '.join(TASKS)}")
  task = TASKS[name]
  known = {
    field.name: field.default is dataclasses.MISSING
    for field in dataclasses.fields(task)
  }
  missing = {name for name, needed in known.items() if needed} - fields.keys()
  for field in sorted(missing | (fields.keys() - known.keys())):
    said = "has no" if field in fields else "needs the"
    raise ValueError(
      f"task {name!r} {said} field task.{field}: start from a config file of "
      "that task"
    )
  return task(**fields).build(model, config.data.sequence_length)

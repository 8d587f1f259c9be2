"""Tasks: what a model is asked and how it is scored, one file each.

A task is the only code that names the fields of a batch, its metrics, and the
number that a model which learned nothing would reach. A new one is a file with
a frozen dataclass `Config`, the fields of `config.task`, whose `build` makes a
`Task`, and a row in `TASKS`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import numpy as np

from linformer_jax.models import ModelConfig
from linformer_jax.tasks import causal_lm, classification, masked_lm
from linformer_jax.tasks.field import Field

__all__ = ["TASKS", "Field", "Task", "create"]

TASKS = {
  "masked_lm": masked_lm.Config,
  "causal_lm": causal_lm.Config,
  "classification": classification.Config,
}


class Task(Protocol):
  """A task for rows of one length N, on one model.

  Attributes:
    headline: the metric of the progress line, the curve and result.json.
    number: how to format it and its floor, such as '.2f'.
    scale: of the curve's axis: 'log' or 'linear'.
    unit: what a weight of 1 counts, in the plural: 'masked tokens'.
    floor_name: what `floor` is, as a key of result.json.
    short: whether rows of training may hold fewer than N real positions.
    length: N, positions in a row.
    outputs: float32 numbers that the head computes for a row.
  """

  headline: ClassVar[str]
  number: ClassVar[str]
  scale: ClassVar[str]
  unit: ClassVar[str]
  floor_name: ClassVar[str]
  short: ClassVar[bool]
  length: int
  outputs: int

  def module(self) -> nn.Module:
    """Returns the module: inputs, encoder and head."""

  def spec(self, masked: bool) -> dict[str, Field]:
    """Returns the fields of a batch by name, with the padding mask or without.

    The validation split has it; training batches where rows may be `short`.
    """

  def example(self, record, rng: np.random.Generator, data) -> dict:
    """Makes a row of each field, mask included: hides, shifts, pads.

    Args:
      record: an element of `data.train` or `data.validation`.
      rng: all randomness; its own for each seed, epoch and record.
      data: what `data.pipeline.prepare` opened.
    """

  def filler(self) -> dict[str, np.ndarray]:
    """Returns a row of weight 0, to fill up the last batch of a split."""

  def init_arguments(self) -> tuple:
    """Returns arguments of the module that its parameters are drawn for."""

  def sums(self, variables, batch, key=None) -> dict[str, jax.Array]:
    """Returns float32 sums over a batch: they add over parts and devices.

    Args:
      variables: parameters and constants of the module.
      batch: arrays [B, ...] by field; the padding mask if there is one.
      key: of dropout, or None for none.

    Returns:
      'loss', whose gradient over 'weight' is the update's; 'weight'; and what
      the metrics need.
    """

  def metrics(self, sums: dict[str, float]) -> dict[str, float]:
    """Returns 'loss', the headline and other metrics of sums over batches."""

  def floor(self, data, batches: Iterable[dict[str, np.ndarray]]) -> float:
    """Returns the headline without a model, over all validation batches."""

  def flops(self) -> int:
    """Returns the FLOPs of a forward pass on a row."""


def create(config: Any, model: ModelConfig) -> Task:
  """Makes the task of a config.

  Args:
    config: a whole experiment config, as configs/base.py.
    model: its validated `model` group.

  Raises:
    ValueError: for a task that is not in `TASKS`, or fields that it has not.
  """
  fields = config.task.to_dict()
  task = kind(config)
  del fields["name"]
  known = {field.name for field in dataclasses.fields(task)}
  for name in sorted(fields.keys() ^ known):
    said = "has no" if name in fields else "needs the"
    raise ValueError(
      f"task {config.task.name!r} {said} field task.{name}: start from a "
      "config file of that task"
    )
  return task(**fields).build(model, config.data.sequence_length)


def kind(config: Any) -> type:
  """Returns the row of `TASKS` that a config names.

  Raises:
    ValueError: for a name that is none.
  """
  name = config.task.name
  if name not in TASKS:
    raise ValueError(f"task.name {name!r} is not one of {', '.join(TASKS)}")
  return TASKS[name]

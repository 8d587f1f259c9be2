"""The shape, dtype and sharding axes of a batch array."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Field:
  """One row of an array of a batch.

  Attributes:
    shape: shape without the batch axis.
    dtype: numpy dtype.
    axes: logical axis of each dimension of `shape`; None is not sharded.
  """

  shape: tuple[int, ...]
  dtype: Any
  axes: tuple[str | None, ...]

"""What an array of a batch looks like."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Field:
  """One row of an array of a batch.

  Attributes:
    shape: without the axis of the batch.
    dtype: of numpy.
    axes: the logical axis of each dimension of `shape`, None for one that no
      mesh divides.
  """

  shape: tuple[int, ...]
  dtype: Any
  axes: tuple[str | None, ...]

"""Tensors by name: takes them one by one, and checks their shapes."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


class Reader:
  """Float tensors by name, of which each must be taken or dropped.

  Attributes:
    sizes: size of each axis letter that was seen so far.
  """

  def __init__(self, tensors: Mapping[str, Any], **sizes: int):
    self._tensors, self._left = tensors, set(tensors)
    self.sizes = sizes

  def __contains__(self, name: str) -> bool:
    return name in self._tensors

  def values(self, pattern: str) -> list[str]:
    """Returns what the group of a pattern is in the names that match."""
    found = (re.match(pattern, name) for name in self._tensors)
    return sorted({x[1] for x in found if x})

  def count(self, pattern: str) -> int:
    """Returns the number of `values`, but at least 1."""
    return len(self.values(pattern)) or 1

  def refuse(self, reasons: Mapping[str, str]):
    """Raises a ValueError for a tensor with one of these parts in its name."""
    for name in self._tensors:
      for part, reason in reasons.items():
        if part in name:
          raise ValueError(f"{name}: {reason}")

  def drop(self, pattern: str):
    """Leaves out the tensors whose names match."""
    self._left -= {name for name in self._left if re.fullmatch(pattern, name)}

  def get(self, name: str, hint: str = "") -> np.ndarray:
    """Returns a tensor as it is; the hint ends the error if there is none."""
    if name not in self._tensors:
      raise ValueError(f"there is no tensor {name}{hint}")
    tensor = np.asarray(self._tensors[name])
    if not jnp.issubdtype(tensor.dtype, np.floating):
      raise ValueError(
        f"{name} is {tensor.dtype}; quantized weights are not read"
      )
    self._left.discard(name)
    return tensor

  def take(self, name: str, axes: str) -> np.ndarray:
    """Returns a tensor as float32.

    Args:
      name: its name.
      axes: a letter for each axis; a letter has one size in all tensors.

    Raises:
      ValueError: for a missing tensor, another shape or a quantized dtype.
    """
    tensor = self.get(name)
    if tensor.ndim != len(axes):
      raise ValueError(f"{name} has shape {tensor.shape}, not {len(axes)} axes")
    for letter, size in zip(axes, tensor.shape, strict=True):
      self.sizes.setdefault(letter, size)
    want = tuple(self.sizes[letter] for letter in axes)
    if tensor.shape != want:
      raise ValueError(f"{name} has shape {tensor.shape}, not {want}")
    return tensor.astype(np.float32)

  def dense(
    self, name: str, axes: str = "MM", bias: bool = True
  ) -> dict[str, np.ndarray]:
    """Returns a dense map; its kernel is [in, out] here, and theirs [out, in].

    Without `bias`, a map here has one that is zero.
    """
    kernel = self.take(f"{name}.weight", axes).T
    if bias:
      return {"kernel": kernel, "bias": self.take(f"{name}.bias", axes[0])}
    return {"kernel": kernel, "bias": np.zeros(kernel.shape[1], np.float32)}

  def norm(self, name: str) -> dict[str, np.ndarray]:
    """Returns a layer norm."""
    scale = self.take(f"{name}.weight", "M")
    return {"scale": scale, "bias": self.take(f"{name}.bias", "M")}

  def finish(self):
    """Raises a ValueError if a tensor was neither taken nor dropped."""
    if self._left:
      raise ValueError(
        f"{len(self._left)} tensors are not known here: "
        + ", ".join(sorted(self._left)[:3])
      )


def expect(settings: Mapping[str, Any], expected: Mapping[str, Any]):
  """Raises a ValueError for a setting that is given and not as expected."""
  for name, value in expected.items():
    if settings.get(name, value) != value:
      raise ValueError(
        f"{name}={settings[name]!r:.60} is not supported: only {value!r} is"
      )

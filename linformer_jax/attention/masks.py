"""Padding masks: True at real tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MEANING = "pass bool or integers 0 and 1, True at real tokens"


def check(mask: Any, shape: tuple[int, ...]) -> jax.Array | np.ndarray | None:
  """Returns a mask as bool; a bool mask is returned unchanged.

  Args:
    mask: bool or integers 0 and 1, True at real tokens, as an array or nested
      lists. None, returned unchanged, means that all tokens are real.
    shape: [B, N] of the rows that the mask covers.

  Returns:
    bool [B, N], or None. Integer values are checked unless the mask is traced;
    a traced 1 is real and any other traced integer is padding.

  Raises:
    ValueError: for another dtype, shape or value. An additive mask (0 at real
      tokens, -1e9 at padding) would otherwise be read as its opposite.
  """
  if mask is None:
    return None
  if not isinstance(mask, (jax.Array, np.ndarray)):
    mask = _from_lists(mask)
  is_bool = jnp.issubdtype(mask.dtype, jnp.bool_)
  if not is_bool and not jnp.issubdtype(mask.dtype, jnp.integer):
    raise ValueError(f"mask has dtype {mask.dtype}: {_MEANING}")
  if mask.shape != tuple(shape):
    raise ValueError(
      f"mask of shape {mask.shape} does not fit rows of shape {tuple(shape)}"
    )
  if is_bool:
    return mask
  if _is_known(mask):
    values = np.asarray(mask)
    others = values[(values != 0) & (values != 1)]
    if others.size:
      raise ValueError(f"mask holds {others[0]}, not 0 or 1: {_MEANING}")
  return mask == 1


def _from_lists(mask):
  traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(mask))
  try:
    return (jnp if traced else np).asarray(mask)
  except (TypeError, ValueError) as error:
    raise ValueError(f"mask is not an array [B, N]: {error}") from error


def _is_known(mask):
  """Whether this process can read the values."""
  if isinstance(mask, jax.core.Tracer):
    return False
  return not isinstance(mask, jax.Array) or mask.is_fully_addressable

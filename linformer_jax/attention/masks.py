"""Padding masks, True at real tokens, and masks of packed documents."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

_MEANING = "pass bool or integers 0 and 1, True at real tokens"


@flax.struct.dataclass
class Documents:
  """A padding mask of rows that hold several documents, one after the other.

  No row attends to another document, as if each were alone. Taken by
  attentions whose config has `documents`.

  Attributes:
    ids: int32 [B, N], 0 at padding; the documents of a sequence have ids from 1
      upward, in the order in which they come.
  """

  ids: Any

  def positions(self) -> jax.Array:
    """Returns int32 [B, N], how many rows of its document are before a row."""
    so_far = jax.lax.cummax(jnp.asarray(self.ids), axis=1)
    begins = jnp.diff(so_far, axis=1, prepend=0) > 0
    at = jnp.arange(so_far.shape[1], dtype=jnp.int32)
    return at - jax.lax.cummax(jnp.where(begins, at, 0), axis=1)


def real(mask):
  """Returns a mask that `check` has returned as bool [B, N], or None."""
  return mask.ids > 0 if isinstance(mask, Documents) else mask


def ids(mask, shape: tuple[int, ...]):
  """Returns integers [B, N], those of `Documents`, or 1 at real rows."""
  if isinstance(mask, Documents):
    return mask.ids
  return jnp.ones(shape, jnp.int8) if mask is None else mask.astype(jnp.int8)


def allowed(mask, start, count: int):
  """Returns what queries may attend to, or None if that is everything.

  Args:
    mask: as `check` returns it, for N rows.
    start, count: the queries are the rows [start, start + count) of documents.

  Returns:
    bool [B, 1, N], or [B, count, N] with `Documents`.
  """
  if not isinstance(mask, Documents):
    return None if mask is None else mask[:, None]
  own = jax.lax.dynamic_slice_in_dim(mask.ids, start, count, axis=1)
  return same(own[:, :, None], mask.ids[:, None])


def same(own, other):
  """Whether real rows are of one document, from their ids."""
  return (own == other) & (other > 0)


def check(mask: Any, shape: tuple[int, ...], documents: bool = False):
  """Returns a mask as bool; a bool mask is returned unchanged.

  Args:
    mask: bool or integers 0 and 1, True at real tokens, as an array or nested
      lists. None, returned unchanged, means that all tokens are real.
    shape: [B, N] of the rows that the mask covers.
    documents: whether `Documents` are welcome; they are returned unchanged.

  Returns:
    bool [B, N], or None. Integer values are checked unless the mask is traced;
    a traced 1 is real and any other traced integer is padding.

  Raises:
    ValueError: for another dtype, shape or value. An additive mask (0 at real
      tokens, -1e9 at padding) would otherwise be read as its opposite.
  """
  if mask is None:
    return None
  if isinstance(mask, Documents):
    return _check_documents(mask, tuple(shape), documents)
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


def _check_documents(mask, shape, welcome):
  if not welcome:
    raise ValueError(
      "this attention does not keep documents apart: softmax (implementation "
      "'xla'), local and causal_linformer do, among the rows of one input"
    )
  found = mask.ids
  if not jnp.issubdtype(found.dtype, jnp.integer):
    raise ValueError(f"ids of documents have dtype {found.dtype}, not int32")
  if found.shape != shape:
    raise ValueError(
      f"ids of shape {found.shape} do not fit rows of shape {shape}"
    )
  if _is_known(found):
    values = np.asarray(found)
    so_far = np.maximum.accumulate(values, axis=1)
    if np.any((values != 0) & (values != so_far)) or np.any(values < 0):
      raise ValueError(
        "ids of documents are 0 at padding, and from 1 upward in the order in "
        "which documents come"
      )
  return mask


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

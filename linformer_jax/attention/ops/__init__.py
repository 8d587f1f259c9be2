"""Implementations of attention from N queries to K slots, and a window.

An implementation computes softmax(q k^T) v for scaled queries [B, N, H, D] and
head-major keys and values [B, H, K, D]; `IMPLEMENTATIONS` says what each
supports. `window` attends to near rows, `kernelized` to sums over rows.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax.attention import masks
from linformer_jax.attention.ops import cpu, cudnn, flash, pallas_tpu, xla
from linformer_jax.parallel import layout

_FLOATS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Implementation:
  """One way to compute attention.

  Attributes:
    attend: (q, k, v, mask) -> [B, N, H, D], as `xla.attend`.
    weights: whether it holds the weights, so that `attend` also takes causal,
      start and dropout.
    dtypes: of the queries, keys and values.
    sublayer: (x, weights, k, v, mask) -> [B, N, M], with the dense layers
      before and after, as `pallas_tpu.sublayer`; or None.
    project: (w, x) -> w x [B, R, M], as `pallas_tpu.project`; or None.
  """

  attend: Callable
  weights: bool = False
  dtypes: tuple[str, ...] = _FLOATS
  sublayer: Callable | None = None
  project: Callable | None = None


IMPLEMENTATIONS = {
  "xla": Implementation(xla.attend, weights=True),
  "flash": Implementation(flash.attend),
  "cpu": Implementation(functools.partial(flash.attend, apply=cpu.one_by_one)),
  "pallas_tpu": Implementation(
    pallas_tpu.attend,
    dtypes=_FLOATS[:2],
    sublayer=pallas_tpu.sublayer,
    project=pallas_tpu.project,
  ),
  "cudnn": Implementation(cudnn.attend, dtypes=("bfloat16", "float16")),
}


def check(name: str, dtype=None, **needs):
  """Raises a ValueError unless an implementation exists and has what is needed.

  Args:
    name: key of `IMPLEMENTATIONS`.
    dtype: dtype of the products, or None.
    **needs: values of fields that only 'xla' supports, such as dropout_rate=0.1
      or causal=True; a false value needs nothing.
  """
  if name not in IMPLEMENTATIONS:
    raise ValueError(
      f"implementation {name!r} is not one of {', '.join(IMPLEMENTATIONS)}"
    )
  found = IMPLEMENTATIONS[name]
  for field, value in needs.items():
    if value and not found.weights:
      raise ValueError(
        f"{field} {value} is not supported with implementation {name!r}: use "
        f"implementation 'xla', or {field}={type(value)(0)}"
      )
  if dtype is not None and jnp.dtype(dtype).name not in found.dtypes:
    raise ValueError(
      f"implementation {name!r} needs dtype {' or '.join(found.dtypes)}, not "
      f"{jnp.dtype(dtype).name}"
    )


def attend(
  q,
  k,
  v,
  mask=None,
  *,
  causal=False,
  start=0,
  dropout=None,
  recompute=False,
  implementation="xla",
):
  """softmax(q k^T / sqrt(D)) v for one block of queries.

  Args:
    q, k, v, mask, causal, start, dropout: as `xla.attend` takes them, but q is
      not scaled.
    recompute: recompute the scores of 'xla' in the backward pass; the others
      do so anyway.
    implementation: key of `IMPLEMENTATIONS`.

  Raises:
    ValueError: for what the implementation does not support.
  """
  rate = dropout[0] if dropout else 0.0
  check(implementation, causal=causal, dropout_rate=rate)
  found = IMPLEMENTATIONS[implementation]
  mask = masks.check(mask, (len(k), k.shape[2]), documents=found.weights)
  q = jnp.asarray(q) * (q.shape[-1] ** -0.5)
  if found.weights:  # XLA partitions it by itself
    function = functools.partial(
      found.attend, causal=causal, start=start, dropout=dropout
    )
    function = jax.checkpoint(function) if recompute else function
  else:
    rows, slots = ("batch", "sequence", "heads"), ("batch", "heads")
    function = layout.per_device(
      found.attend, (rows, slots, slots, ("batch",)), rows
    )
  return function(q, k, v, mask)


def sublayer(implementation: str, x, weights, k, v, mask):
  """Attends from rows x [B, N, M] with the dense layers before and after.

  Args:
    implementation: key of `IMPLEMENTATIONS`.
    x: rows, in the dtype of the products.
    weights: see `pallas_tpu.Weights`.
    k, v: keys and values [B, H, K, D].
    mask: bool [B, K], or None.

  Returns:
    [B, N, M]; or None if the implementation has no such function, or devices
    divide the heads.
  """
  function = IMPLEMENTATIONS[implementation].sublayer
  if function is None or layout.shards("heads") > 1:
    return None
  rows, slots = ("batch", "sequence"), ("batch",)
  function = layout.per_device(function, (rows, (), slots, slots, slots), rows)
  return function(x, weights, k, v, mask)


def project(implementation: str, matrices, x):
  """Projects rows x [B, N, M] by several matrices [K, N], and reads them once.

  Returns:
    [B, K, M] for each matrix; or None if the implementation has no such
    function, or devices share the rows of a sequence.
  """
  function = IMPLEMENTATIONS[implementation].project
  if function is None or layout.shards("sequence") > 1:
    return None
  function = layout.per_device(function, ((), ("batch",)), ("batch",))
  joined = jnp.concatenate(matrices)[:, : x.shape[1]]
  ends = np.cumsum([len(matrix) for matrix in matrices])[:-1]
  return jnp.split(function(joined, x), ends, axis=1)

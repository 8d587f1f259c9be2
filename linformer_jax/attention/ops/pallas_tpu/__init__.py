"""Kernels for TPUs: projections, attention to slots, the sublayer around it.

Off a TPU, each computes the same by XLA. `stream`, `slots` and `fused` have the
kernels, which `interpret=True` runs anywhere, and `head` what they share.
"""

import jax

from linformer_jax.attention import masks
from linformer_jax.attention.ops import flash
from linformer_jax.attention.ops.pallas_tpu import fused, head, slots, stream
from linformer_jax.attention.ops.pallas_tpu.fused import Weights

__all__ = ["Weights", "attend", "project", "sublayer"]


def attend(q, k, v, mask=None):
  """softmax(q k^T) v; arguments as for `xla.attend`.

  Off a TPU, `flash` computes the same.
  """
  mask = masks.check(mask, (k.shape[0], k.shape[2]))
  return jax.lax.platform_dependent(
    q, k, v, mask, tpu=_attend, default=flash.attend
  )


def _attend(q, k, v, mask):
  """Runs the kernel, or `flash` if its slots do not fit vector memory."""
  sizes = q.shape[1], q.shape[2], q.shape[3], k.shape[2], q.dtype
  blocks = slots.choose(*sizes, head.budget())
  if blocks is None:
    return flash.attend(q, k, v, mask)
  return slots.kernel(q, k, v, mask, blocks)


def sublayer(x, weights, k, v, mask=None):
  """W_Q, attention to K slots and W_O for rows x [B, N, M].

  Args:
    x: rows [B, N, M].
    weights: W_Q, W_O and their biases, see `Weights`.
    k, v: K' and V' [B, H, K, D].
    mask: [B, K] or None, as `masks.check` takes it.

  Returns:
    [B, N, M] in the dtype of x.
  """
  mask = masks.check(mask, (k.shape[0], k.shape[2]))
  return jax.lax.platform_dependent(
    x,
    weights,
    k,
    v,
    mask,
    tpu=_sublayer,
    default=fused.reference,
  )


def _sublayer(x, weights, k, v, mask):
  """Runs the kernel, or its parts if all does not fit vector memory."""
  budget = head.budget()
  rows = fused.choose(x.shape, k.shape, x.dtype, budget)
  if rows is None:
    return fused.reference(x, weights, k, v, mask, attend=_attend)
  return fused.kernel(x, weights, k, v, mask, rows=rows, budget=budget)


def project(w, x):
  """W X [B, R, M] for W [R, N], such as E and F together, and rows x [B, N, M].

  Rows of padding are zero.
  """
  return jax.lax.platform_dependent(
    w, x, tpu=_project, default=stream.reference
  )


def _project(w, x):
  """Runs the kernel, or einsum if a block does not fit vector memory."""
  budget = head.budget()
  rows = stream.choose(x.shape[1], x.shape[2], len(w), x.dtype, budget)
  if rows is None:
    return stream.reference(w, x)
  return stream.kernel(w, x, rows=rows, budget=budget)

"""Local attention: every query attends to the rows near it, exactly.

Longformer's sliding window (Beltagy et al. 2020, arXiv 2004.05150), O(N w).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from linformer_jax.attention import base, heads
from linformer_jax.attention.ops import window as window_op
from linformer_jax.attention.ops import xla


class LocalSelfAttention(heads.MultiHeadAttention):
  """Multi-head attention to w rows on either side of a query and to its own.

  With a sharded sequence axis, devices exchange w rows with their neighbors.

  Attributes:
    num_heads: H; must divide the width M of the input.
    window: w.
    causal: whether a query attends to no row after its own.
    dropout_rate: dropout on the attention weights.
  """

  num_heads: int
  window: int
  causal: bool = False
  dropout_rate: float = 0.0

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    if memory:
      raise ValueError(
        "local attention is for attention to itself: the rows of a memory are "
        "not near any query"
      )

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns a `blocks.Halo` of k, v [B, N, H, D] and the mask."""
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    k, v = self.rotate(self.key(memory, head_dim)), self.value(memory, head_dim)
    return window_op.halo(k, v, mask, self.window)

  def mix(self, q, summary, start, dropout):
    """Returns the softmax over rows j with |i - j| <= w, times their values."""
    near = summary.around(start, q.shape[1])
    q = q * (q.shape[-1] ** -0.5)
    return window_op.attend(q, near, causal=self.causal, dropout=dropout)

  def step(self, weights, q, k, v, cache, start, count):
    """Attends to the w rows before and to the new ones, k, v [H, w, D]."""
    del weights
    near = [
      jnp.concatenate([rows, new.swapaxes(0, 1)], axis=1)
      for rows, new in zip(cache, (k, v), strict=True)
    ]
    before = jnp.arange(self.window + len(q)) - self.window  # first new is 0
    distance = before - jnp.arange(len(q))[:, None]
    seen = (distance <= 0) & (distance >= -self.window) & (before >= -start)
    cache = tuple(
      jax.lax.dynamic_slice_in_dim(rows, count, self.window, 1) for rows in near
    )
    return xla.attend_allowed(q, (*near, seen)), cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalConfig(base.AttentionConfig):
  """Attributes as of `LocalSelfAttention`."""

  window: int = 64
  dropout_rate: float = 0.0

  name: ClassVar[str] = "local"
  Module: ClassVar = LocalSelfAttention
  causal: ClassVar[bool] = True
  rotates: ClassVar[bool] = True
  documents: ClassVar[bool] = True

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    base.require_rate("dropout_rate", self.dropout_rate)
    base.require_range("window", self.window, 0)
    base.require_window(
      "window", self.window, length or sizes.max_length, shards
    )

  def init_cache(self, sizes, length):
    shape = sizes.num_heads, self.window, sizes.head_dim
    rows = jnp.zeros(shape, sizes.dtype)
    return rows, rows

  def flops(self, sizes, n):
    seen = self.window + 1 + (0 if sizes.causal else self.window)
    return super().flops(sizes, n) + 4 * n * min(seen, n) * sizes.embed_dim

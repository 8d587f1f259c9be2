"""Multi-head softmax attention: every query attends to every real row."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks, ops
from linformer_jax.attention.ops import xla


class SoftmaxSelfAttention(heads.MultiHeadAttention):
  """Multi-head attention (Vaswani et al. 2017), O(N^2).

  Attributes:
    num_heads: H; must divide the width M of the input.
    dropout_rate: dropout on the attention weights.
    causal: whether a query attends only to itself and earlier rows.
    implementation: see `functional.projected_attention`.
  """

  num_heads: int
  dropout_rate: float = 0.0
  causal: bool = False
  implementation: str = "xla"

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns k, v [B, H, N, D], and the mask."""
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    k, v = self.rotate(self.key(memory, head_dim)), self.value(memory, head_dim)
    mask = masks.check(mask, memory.shape[:2], documents=True)
    return *heads.by_head(k, v), mask

  def mix(self, q, summary, start, dropout):
    """Returns softmax(q k^T / sqrt(D)) v."""
    return ops.attend(
      q,
      *summary,
      causal=self.causal,
      start=start,
      dropout=dropout,
      recompute=bool(self.query_block),
      implementation=self.implementation,
    )

  def step(self, weights, q, k, v, cache, start, count):
    """Attends to all rows so far, k, v [H, N, D]."""
    del weights, count
    k, v = (
      jax.lax.dynamic_update_slice_in_dim(rows, new.swapaxes(0, 1), start, 1)
      for rows, new in zip(cache, (k, v), strict=True)
    )
    past = jnp.arange(k.shape[1]) <= start + jnp.arange(len(q))[:, None]
    return xla.attend_allowed(q, (k, v, past)), (k, v)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxConfig(base.AttentionConfig):
  """Attributes as of `SoftmaxSelfAttention`."""

  dropout_rate: float = 0.0
  implementation: str = "xla"

  name: ClassVar[str] = "softmax"
  Module: ClassVar = SoftmaxSelfAttention
  causal: ClassVar[bool] = True
  rotates: ClassVar[bool] = True
  documents: ClassVar[bool] = True
  is_softmax: ClassVar[bool] = True

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    base.require_rate("dropout_rate", self.dropout_rate)
    ops.check(
      self.implementation,
      sizes.dtype,
      dropout_rate=self.dropout_rate,
      causal=sizes.causal,
    )

  def init_cache(self, sizes, length):
    rows = jnp.zeros((sizes.num_heads, length, sizes.head_dim), sizes.dtype)
    return rows, rows

  def flops(self, sizes, n):
    return super().flops(sizes, n) + 4 * n * n * sizes.embed_dim

"""Linear attention: a feature map in place of the softmax.

Katharopoulos et al. 2020, arXiv 2006.16236.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks
from linformer_jax.parallel import layout


def feature_map(x):
  """phi(x) = elu(x) + 1 > 0 (equation 7)."""
  return nn.elu(x) + 1


def sums(k, v, mask=None):
  """Returns sum_j phi(k_j) v_j^T and sum_j phi(k_j) over real rows.

  Args:
    k, v: keys and values [B, K, H, D].
    mask: bool [B, K], True at real rows, or None.

  Returns:
    float32 [B, H, D, D] and [B, H, D].
  """
  k = feature_map(k.astype(jnp.float32))
  if mask is not None:
    k = jnp.where(mask[..., None, None], k, 0)
  kv = jnp.einsum("bnhd,bnhe->bhde", k, v.astype(jnp.float32))
  return tuple(
    layout.constrain(x, "batch", "heads") for x in (kv, jnp.sum(k, axis=1))
  )


def read(q, kv, total):
  """Returns phi(q) kv / phi(q) total, float32; zero if no row is real."""
  phi = feature_map(q.astype(jnp.float32))
  weight = jnp.einsum("bnhd,bhd->bnh", phi, total)
  out = jnp.einsum("bnhd,bhde->bnhe", phi, kv)
  return out / jnp.where(weight > 0, weight, 1)[..., None]


class LinearSelfAttention(heads.MultiHeadAttention):
  """phi(Q) (phi(K)^T V) / (phi(Q) sum_j phi(K_j)), O(N D) a head (equation 5).

  Attributes:
    num_heads: H; must divide the width M of the input.
  """

  num_heads: int

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns sums over real rows, float32: [B, H, D, D] and [B, H, D]."""
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    return sums(k, v, masks.check(mask, memory.shape[:2]))

  def mix(self, q, summary, start, dropout):
    """Returns the normalized sum of values; zero if no row is real."""
    del start, dropout
    return read(q, *summary).astype(q.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig(base.AttentionConfig):
  """Linear attention has no choices."""

  name: ClassVar[str] = "linear"
  Module: ClassVar = LinearSelfAttention

  def flops(self, sizes, n):
    mixing = 2 * n * sizes.embed_dim * (2 * sizes.head_dim + 1)
    return super().flops(sizes, n) + mixing

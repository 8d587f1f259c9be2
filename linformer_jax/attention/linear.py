"""Linear attention: a feature map in place of the softmax.

Katharopoulos et al. 2020, arXiv 2006.16236.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads
from linformer_jax.attention.ops import kernelized


def feature_map(x):
  """phi(x) = elu(x) + 1 > 0, float32 (equation 7)."""
  return nn.elu(x.astype(jnp.float32)) + 1


class LinearSelfAttention(heads.MultiHeadAttention):
  """phi(Q) (phi(K)^T V) / (phi(Q) sum_j phi(K_j)), O(N D) a head (equation 5).

  Attributes:
    num_heads: H; must divide the width M of the input.
    causal: whether a query attends to no row after its own (equation 9).
  """

  num_heads: int
  causal: bool = False

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns sums over real rows; see `kernelized.summarise`."""
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    return kernelized.summarise(feature_map(k), v, mask, self.causal)

  def mix(self, q, summary, start, dropout):
    """Returns the normalized sum of values; zero if no row is real."""
    del dropout
    out = kernelized.attend(feature_map(q), summary, start, self.causal)
    return out.astype(q.dtype)

  def step(self, weights, q, k, v, cache, start, count):
    """See `kernelized.step`."""
    del weights, start
    out, cache = kernelized.step(
      feature_map(q), feature_map(k), v, cache, count
    )
    return out.astype(q.dtype), cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig(base.AttentionConfig):
  """Linear attention has no choices."""

  name: ClassVar[str] = "linear"
  Module: ClassVar = LinearSelfAttention
  causal: ClassVar[bool] = True

  def init_cache(self, sizes, length):
    return kernelized.init_sums(sizes, sizes.head_dim)

  def flops(self, sizes, n):
    mixing = kernelized.flops(sizes, n, sizes.head_dim)
    return super().flops(sizes, n) + mixing

"""cosFormer: linear attention whose weights fall with the distance of rows.

Qin et al. 2022, arXiv 2202.08791.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads
from linformer_jax.attention.ops import kernelized


def feature_map(x, start, max_length: int):
  """Returns [relu(x_i) cos(a_i), relu(x_i) sin(a_i)], a_i = pi i / (2 L).

  By Ptolemy's theorem, cos(a_i - a_j) = cos(a_i) cos(a_j) + sin(a_i) sin(a_j).

  Args:
    x: rows i >= start, [B, N, H, D].
    start: index of the first row in the sequence.
    max_length: L, the same for every input: an angle that depended on its
      length would make a short input differ from that input padded.

  Returns:
    float32 [B, N, H, 2 D].
  """
  x = nn.relu(x.astype(jnp.float32))
  rows = start + jnp.arange(x.shape[1])
  angle = (jnp.pi / 2 / max_length * rows)[:, None, None]
  return jnp.concatenate([x * jnp.cos(angle), x * jnp.sin(angle)], axis=-1)


class CosformerSelfAttention(heads.MultiHeadAttention):
  """Attention with weights relu(q_i) relu(k_j)^T cos(pi (i - j) / (2 L)).

  They are nonnegative, as |i - j| < L, and divided by their sum (equation 10).
  A query whose weights are all zero, such as one with no positive entry, gets
  zero; elu(x) + 1 of 'linear' has no such query.

  Attributes:
    num_heads: H; must divide the width M of the input.
    max_length: L, the longest input.
    causal: whether a query attends to no row after its own.
  """

  num_heads: int
  max_length: int
  causal: bool = False

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    if memory:
      raise ValueError(
        "cosformer attention is for attention to itself: the rows of a memory "
        "have no distance from a query"
      )

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns sums over real rows; see `kernelized.summarise`."""
    del shared
    if memory.shape[1] > self.max_length:
      raise ValueError(
        f"input of {memory.shape[1]} rows is longer than the max_length "
        f"{self.max_length} of cosformer attention: its weights would be "
        "negative"
      )
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    k = feature_map(k, 0, self.max_length)
    return kernelized.summarise(k, v, mask, self.causal)

  def mix(self, q, summary, start, dropout):
    """Returns the normalized sum of values."""
    del dropout
    phi = feature_map(q, start, self.max_length)
    return kernelized.attend(phi, summary, start, self.causal).astype(q.dtype)

  def step(self, weights, q, k, v, cache, start, count):
    """See `kernelized.step`."""
    del weights
    q_rows, k = (
      feature_map(x[None], start, self.max_length)[0] for x in (q, k)
    )
    out, cache = kernelized.step(q_rows, k, v, cache, count)
    return out.astype(q.dtype), cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosformerConfig(base.AttentionConfig):
  """cosFormer has no choices: L is the `max_length` of the model."""

  name: ClassVar[str] = "cosformer"
  Module: ClassVar = CosformerSelfAttention
  causal: ClassVar[bool] = True
  sparse: ClassVar[bool] = True

  def module(self, sizes):
    return self.Module(
      max_length=sizes.max_length, causal=sizes.causal, **sizes.module_fields()
    )

  def init_cache(self, sizes, length):
    return kernelized.init_sums(sizes, 2 * sizes.head_dim)

  def flops(self, sizes, n):
    mixing = kernelized.flops(sizes, n, 2 * sizes.head_dim)
    return super().flops(sizes, n) + mixing

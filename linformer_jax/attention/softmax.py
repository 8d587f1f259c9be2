"""Plain multi-head softmax attention: every query onto every real row."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import heads, masks


class SoftmaxSelfAttention(nn.Module):
  """Multi-head attention of Vaswani et al. 2017, O(N^2).

  Attributes:
    num_heads: H; must divide the width M of the input.
    dropout_rate: on the attention weights.
    causal: whether a query attends to itself and the rows before it only; for
      attention to itself, with 'xla' and query_block=0.
    query_block: queries handled at a time, 0 for all.
    implementation: see `functional.projected_attention`.
    dtype: of the matrix products.
    kernel_init: initializer of the four dense kernels.
    query_init, key_init: of those two in its place, or None.
  """

  num_heads: int
  dropout_rate: float = 0.0
  causal: bool = False
  query_block: int = 0
  implementation: str = "xla"
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()
  query_init: Any = None
  key_init: Any = None

  def setup(self):
    maps = heads.dense_maps(self)
    self.query, self.key, self.value, self.out, self.drop = maps

  def keys_and_values(self, memory, features, mask=None, shared=None):
    """The memory that `heads.attend` takes, of rows [B, N, M'].

    Args:
      memory: rows, those that are not real zeroed.
      features: M, the width of all heads together.
      mask: as `masks.check` takes it, [B, N] or None.
      shared: unused; as that of Linformer.
    """
    del shared
    mask = masks.check(mask, memory.shape[:2])
    head_dim = heads.split_width(features, self.num_heads)
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    return *heads.by_head(k, v), mask, None

  def attend(self, x, memory, deterministic=True):
    """From x [B, N, M] onto `keys_and_values`."""
    return heads.attend(self, x, memory, deterministic, causal=self.causal)

  def __call__(self, x, memory=None, mask=None, deterministic=True):
    """Attends from x to itself, or to `memory`.

    Args:
      x: [B, N, M].
      memory: None, or what keys and values are made of [B, N', M'].
      mask: bool or integers 0 and 1, True at real rows of the memory ([B, N'],
        or [B, N] when x is its own memory), or None; see `masks.check`.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      [B, N, M] in `dtype`.

    Raises:
      ValueError: when the heads do not divide the width, or the mask does not
        fit the memory or is of another dtype (an additive one).
    """
    mask = masks.check(mask, (x if memory is None else memory).shape[:2])
    if memory is None:
      x = memory = heads.select_real(x, mask)
    elif self.causal:
      raise ValueError("causal attention is for attention to itself")
    else:
      memory = heads.select_real(memory, mask)
    return heads.in_query_blocks(
      self,
      lambda self, x, memory: self.attend(x, memory, deterministic),
      x,
      self.keys_and_values(memory, x.shape[-1], mask),
      self.query_block,
    )

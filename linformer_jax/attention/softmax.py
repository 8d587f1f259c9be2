"""Multi-head softmax attention: every query attends to every real row."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import heads, masks


class SoftmaxSelfAttention(nn.Module):
  """Multi-head attention (Vaswani et al. 2017), O(N^2).

  Attributes:
    num_heads: H; must divide the width M of the input.
    dropout_rate: dropout on the attention weights.
    causal: whether a query attends only to itself and earlier rows; needs
      self-attention, 'xla' and query_block=0.
    query_block: process queries in blocks of this size; 0 is off.
    implementation: see `functional.projected_attention`.
    dtype: dtype of the matrix products.
    kernel_init: initializer of the four dense kernels.
    query_init, key_init: override `kernel_init` for W_Q and W_K unless None.
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
    """Returns the `memory` that `heads.attend` takes.

    Args:
      memory: rows [B, N, M'], with padding rows zeroed.
      features: M, the width of all heads together.
      mask: [B, N] or None, as `masks.check` takes it.
      shared: unused; present to match Linformer's signature.
    """
    del shared
    mask = masks.check(mask, memory.shape[:2])
    head_dim = heads.split_width(features, self.num_heads)
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    return *heads.by_head(k, v), mask, None

  def attend(self, x, memory, deterministic=True):
    """Attends from x [B, N, M] to a `memory` made by `keys_and_values`."""
    return heads.attend(self, x, memory, deterministic, causal=self.causal)

  def __call__(self, x, memory=None, mask=None, deterministic=True):
    """Attends from x to itself, or to `memory`.

    Args:
      x: [B, N, M].
      memory: rows [B, N', M'] that make keys and values; None for x.
      mask: bool or integers 0 and 1, True at real rows of the memory ([B, N'],
        or [B, N] if x is the memory), or None; see `masks.check`.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      [B, N, M] in `dtype`.

    Raises:
      ValueError: if H does not divide M, or the mask has the wrong shape or
        dtype (such as an additive mask).
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

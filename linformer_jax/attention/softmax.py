"""Plain multi-head softmax attention: every query onto every real row."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import functional, heads


class SoftmaxSelfAttention(nn.Module):
  """Multi-head attention of Vaswani et al. 2017, O(N^2).

  Attributes:
    num_heads: H; must divide the width M of the input.
    dropout_rate: on the attention weights.
    query_block: queries handled at a time, 0 for all.
    dtype: of the matrix products.
    kernel_init: initialiser of the four dense kernels.
    query_init, key_init: of those two in its place, or None.
  """

  num_heads: int
  dropout_rate: float = 0.0
  query_block: int = 0
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()
  query_init: Any = None
  key_init: Any = None

  @nn.compact
  def __call__(self, x, memory=None, mask=None, deterministic=True):
    """Attends from x to itself, or to `memory`.

    Args:
      x: [B, N, M].
      memory: None, or what keys and values are made of [B, N', M'].
      mask: bool, True at real rows of the memory ([B, N'], or [B, N] when x is
        its own memory), or None.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      [B, N, M] in `dtype`.

    Raises:
      ValueError: when the heads do not divide the width, or the mask does not
        fit the memory.
    """
    head_dim = heads.split_width(x.shape[-1], self.num_heads)
    if memory is None:
      x = memory = heads.select_real(x, mask)
    else:
      memory = heads.select_real(memory, mask)

    def dense(name, init=None):
      init = init or self.kernel_init
      return heads.HeadDense(
        self.num_heads, head_dim, self.dtype, init, name=name
      )

    dropout = None
    if self.dropout_rate and not deterministic:
      dropout = nn.Dropout(self.dropout_rate, deterministic=False)
    attended = functional.projected_attention(
      dense("query", self.query_init)(x),
      dense("key", self.key_init)(memory),
      dense("value")(memory),
      mask,
      query_block=self.query_block,
      dropout=dropout,
    )
    return heads.output_dense(attended, self.dtype, self.kernel_init)

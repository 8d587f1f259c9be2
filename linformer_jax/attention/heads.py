"""Dense maps into and out of attention heads."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class HeadDense(nn.Module):
  """A dense map [B, N, M] -> [B, N, H, D] that something may come between.

  Attributes:
    num_heads: H.
    head_dim: D.
    dtype: of the matrix product; parameters are float32.
    kernel_init: initialiser of the kernel [M, H * D].
  """

  num_heads: int
  head_dim: int
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x, between=None):
    """x W, then `between` along the sequence, then the bias.

    x is [B, N, M], or [B, N, H, M] where each head has rows of its own.
    The bias comes last in either order of contraction, so that K = (E X) W + b
    as in the authors' code; E (X W + b) would add (E 1) b instead.
    """
    features = self.num_heads * self.head_dim
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], features))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    x, kernel = jnp.asarray(x, self.dtype), kernel.astype(self.dtype)
    if x.ndim == 4:
      by_head = kernel.reshape(-1, self.num_heads, self.head_dim)
      y = jnp.einsum("bnhm,mhd->bnhd", x, by_head)
    else:
      y = (x @ kernel).reshape(*x.shape[:2], self.num_heads, self.head_dim)
    if between is not None:
      y = between(y)
    bias = bias.reshape(self.num_heads, self.head_dim)
    return y + bias.astype(self.dtype)


def output_dense(x, dtype, kernel_init):
  """The output map [B, N, H, D] -> [B, N, M], M = H * D; call in a module."""
  x = x.reshape(*x.shape[:-2], -1)
  return nn.Dense(
    x.shape[-1], dtype=dtype, kernel_init=kernel_init, name="out"
  )(x)


def split_width(embed_dim: int, num_heads: int) -> int:
  """D = M / H.

  Raises:
    ValueError: when the heads do not divide the width.
  """
  if num_heads < 1 or embed_dim % num_heads:
    raise ValueError(
      f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}"
    )
  return embed_dim // num_heads


def select_real(x, mask):
  """Rows [B, N, M] with those that are not real replaced by zero.

  Selected and not multiplied, so that NaN or inf in a pad cannot spread, not
  through a gradient either.
  """
  if mask is None:
    return x
  if mask.shape != x.shape[:2]:
    raise ValueError(
      f"mask of shape {mask.shape} does not fit rows of shape {x.shape[:2]}"
    )
  return jnp.where(mask[..., None], x, 0)

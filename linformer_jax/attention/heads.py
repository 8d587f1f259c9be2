"""Dense maps into and out of attention heads, and what they enclose."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from linformer_jax.attention import functional
from linformer_jax.parallel import layout


class HeadDense(nn.Module):
  """A dense map [B, N, M] -> [B, N, H, D] that something may come between.

  Attributes:
    num_heads: H.
    dtype: of the matrix product; parameters are float32.
    kernel_init: initializer of the kernel [M, H * D].
  """

  num_heads: int
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x, head_dim, between=None, both=False):
    """x W, then `between` along the sequence, then the bias.

    x is [B, N, M], or [B, N, H, M] where each head has rows of its own.
    The bias comes last in either order of contraction, so that K = (E X) W + b
    as in the authors' code; E (X W + b) would add (E 1) b instead. With `both`,
    a pair: that, and the rows without `between`.
    """
    features = self.num_heads * head_dim
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], features))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    x, kernel = jnp.asarray(x, self.dtype), kernel.astype(self.dtype)
    if x.ndim == 4:
      by_head = kernel.reshape(-1, self.num_heads, head_dim)
      y = jnp.einsum("bnhm,mhd->bnhd", x, by_head)
    else:
      y = (x @ kernel).reshape(*x.shape[:2], self.num_heads, head_dim)
    bias = bias.reshape(self.num_heads, head_dim).astype(self.dtype)
    through = y if between is None else between(y)
    return (through + bias, y + bias) if both else through + bias


class OutDense(nn.Module):
  """The dense map [B, N, H, D] -> [B, N, M] out of the heads, M = H * D.

  Attributes:
    dtype: of the matrix product; parameters are float32.
    kernel_init: initializer of the kernel [H * D, M].
  """

  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x):
    x = jnp.asarray(x.reshape(*x.shape[:2], -1), self.dtype)
    features = x.shape[-1]
    kernel = self.param("kernel", self.kernel_init, (features, features))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    return x @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def dense_maps(module):
  """W_Q, W_K, W_V, W_O and dropout of an attention module; call in setup."""
  inits = (module.query_init, module.key_init, None)
  query, key, value = (
    HeadDense(module.num_heads, module.dtype, init or module.kernel_init)
    for init in inits
  )
  out = OutDense(module.dtype, module.kernel_init)
  return query, key, value, out, nn.Dropout(module.dropout_rate)


def attend(module, x, memory, deterministic, window=0, causal=False):
  """Rows [B, N, M] to queries, onto keys and values, and out: [B, N, M].

  Args:
    module: an attention module that has `dense_maps`.
    x: rows that ask.
    memory: k, v [B, H, K, D]; bool [B, K], True where there is something to
      attend to, or None; and None, or what `local.attend` takes as `near`.
    deterministic: False applies dropout (rng 'dropout').
    window: of `local.attend`.
    causal: see `functional.attend`.
  """
  k, v, slots, near = memory
  dropout = None
  if module.dropout_rate and not deterministic:
    dropout = functools.partial(module.drop, deterministic=False)
  attended = functional.attend(
    layout.constrain(
      module.query(x, k.shape[-1]), "batch", "sequence", "heads"
    ),
    k,
    v,
    slots,
    near=near,
    window=window,
    causal=causal,
    recompute=bool(module.query_block),
    implementation=module.implementation,
    dropout=dropout,
  )
  return module.out(attended)


def by_head(k, v):
  """Keys and values [B, K, H, D] laid out [B, H, K, D].

  Each device has all slots of its sequences and heads: where the sequence is
  divided, this is what is exchanged, and it does not grow with the sequence.
  """
  return tuple(
    layout.constrain(x.swapaxes(1, 2), "batch", "heads") for x in (k, v)
  )


def in_query_blocks(module, function, x, memory, block: int, remat=False):
  """function(module, x, memory), `block` positions of x [B, N, M] at a time.

  All that lies between the keys and values of a layer, the memory, and its
  output then works on rows that fit a cache, and needs memory for one block:
  in the backward pass, too, where `remat` computes a block again.
  """
  if module.is_initializing() or not functional.is_longer(x, block):
    return function(module, x, memory)
  unbound, variables = module.unbind()

  def one(rows, memory, variables, key):
    rngs = None if key is None else {"dropout": key}
    return unbound.apply(variables, rows, memory, rngs=rngs, method=function)

  if remat:  # within a loop, which needs no barrier
    one = jax.checkpoint(one, prevent_cse=False)
  key = module.make_rng("dropout") if module.has_rng("dropout") else None
  return functional.in_query_blocks(one, x, block, memory, variables, key)


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

  The mask is bool [B, N] or None, as `masks.check` returns it.

  Selected and not multiplied, so that NaN or inf in a pad cannot spread, not
  through a gradient either.
  """
  if mask is None:
    return x
  return jnp.where(mask[..., None], x, 0)

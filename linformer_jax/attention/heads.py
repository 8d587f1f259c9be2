"""Dense projections into and out of attention heads, and attention itself."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from linformer_jax.attention import functional
from linformer_jax.parallel import layout


class HeadDense(nn.Module):
  """A dense projection [B, N, M] -> [B, N, H, D], its bias applied last.

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
    """Returns between(x W) + b.

    x is [B, N, M], or [B, N, H, M] if each head has its own rows. The bias
    comes last in both orders of contraction, so K = (E X) W + b as in the
    authors' code; E (X W + b) would add (E 1) b instead. With `both`, returns
    the pair (between(x W) + b, x W + b).
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
  """The output projection [B, N, H, D] -> [B, N, M], M = H * D.

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
  """Makes an attention module's W_Q, W_K, W_V, W_O and dropout, in setup."""
  inits = (module.query_init, module.key_init, None)
  query, key, value = (
    HeadDense(module.num_heads, module.dtype, init or module.kernel_init)
    for init in inits
  )
  out = OutDense(module.dtype, module.kernel_init)
  return query, key, value, out, nn.Dropout(module.dropout_rate)


def attend(module, x, memory, deterministic, window=0, causal=False):
  """Projects x to queries, attends, and projects back: [B, N, M] -> [B, N, M].

  Args:
    module: an attention module with the layers of `dense_maps`.
    x: rows [B, N, M] that make the queries.
    memory: (k, v, slots, near): k, v [B, H, K, D]; slots bool [B, K], True at
      slots to attend to, or None; near as `local.attend` takes it, or None.
    deterministic: False applies dropout (rng 'dropout').
    window: see `local.attend`.
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
  """Transposes keys and values [B, K, H, D] to [B, H, K, D].

  Each device holds all slots of its sequences and heads. With a sharded
  sequence axis, only these slots are communicated, a size independent of N.
  """
  return tuple(
    layout.constrain(x.swapaxes(1, 2), "batch", "heads") for x in (k, v)
  )


def in_query_blocks(module, function, x, memory, block: int, remat=False):
  """Applies function(module, x, memory) to blocks of positions of x [B, N, M].

  Everything in a layer after its keys and values then works on rows that fit
  in cache and stores the activations of one block; with `remat`, which
  recomputes each block, in the backward pass too.
  """
  if module.is_initializing() or not functional.is_longer(x, block):
    return function(module, x, memory)
  unbound, variables = module.unbind()

  def apply(rows, memory, variables, key):
    rngs = None if key is None else {"dropout": key}
    return unbound.apply(variables, rows, memory, rngs=rngs, method=function)

  if remat:  # a loop needs no CSE barrier
    apply = jax.checkpoint(apply, prevent_cse=False)
  key = module.make_rng("dropout") if module.has_rng("dropout") else None
  return functional.in_query_blocks(apply, x, block, memory, variables, key)


def split_width(embed_dim: int, num_heads: int) -> int:
  """Returns D = M / H.

  Raises:
    ValueError: if H does not divide M.
  """
  if num_heads < 1 or embed_dim % num_heads:
    raise ValueError(
      f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}"
    )
  return embed_dim // num_heads


def select_real(x, mask):
  """Sets padding rows of x [B, N, M] to zero.

  The mask is bool [B, N] or None, as `masks.check` returns it. A select, not a
  product, keeps NaN and inf in padding out of the output and the gradient.
  """
  if mask is None:
    return x
  return jnp.where(mask[..., None], x, 0)

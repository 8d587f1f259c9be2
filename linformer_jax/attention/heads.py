"""Multi-head attention: what all kinds of attention have in common."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from linformer_jax.attention import masks
from linformer_jax.attention import rotary as rotary_lib
from linformer_jax.parallel import blocks, gradients, layout


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
  def __call__(self, x, head_dim, between=None):
    """Returns x W + b; with `between`, the pair (between(x W) + b, x W + b).

    `between` returns an array or a tree of arrays [B, K, H, D].

    x is [B, N, M], or [B, N, H, M] if each head has its own rows. The bias
    comes last in both orders of contraction, so K = (E X) W + b as in the
    authors' code; E (X W + b) would add (E 1) b instead.
    """
    features = self.num_heads * head_dim
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], features))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    x, kernel = jnp.asarray(x, self.dtype), gradients.cast(kernel, self.dtype)
    if x.ndim == 4:
      by_head = kernel.reshape(-1, self.num_heads, head_dim)
      y = gradients.einsum("bnhm,mhd->bnhd", x, by_head)
    else:
      y = gradients.einsum("bnm,mf->bnf", x, kernel)
      y = y.reshape(*x.shape[:2], self.num_heads, head_dim)
    bias = gradients.cast(bias.reshape(self.num_heads, head_dim), self.dtype)
    if between is None:
      return gradients.add(y, bias)
    mapped = jax.tree.map(lambda rows: gradients.add(rows, bias), between(y))
    return mapped, gradients.add(y, bias)


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
    y = gradients.einsum("bnm,mf->bnf", x, gradients.cast(kernel, self.dtype))
    return gradients.add(y, gradients.cast(bias, self.dtype))


def by_head(k, v):
  """Transposes keys and values [B, K, H, D] to [B, H, K, D].

  Each device holds all slots of its sequences and heads. With a sharded
  sequence axis, only these slots are communicated, a size independent of N.
  """
  return tuple(
    layout.constrain(x.swapaxes(1, 2), "batch", "heads") for x in (k, v)
  )


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

  The mask is as `masks.check` returns it. A select, not a product, keeps NaN
  and inf in padding out of the output and the gradient.
  """
  mask = masks.real(mask)
  if mask is None:
    return x
  return jnp.where(mask[..., None], x, 0)


def in_query_blocks(module, method, x, summary, block, *, remat=False):
  """Applies a method of a bound module to blocks of queries; see `blocks`.

  Args:
    module: a bound module.
    method: (module, x [b, n, M], summary, start) -> [b, n, M], row-wise.
    x: [B, N, M].
    summary: keys and values, as the attention summarises them.
    block: queries per block; 0 is off.
    remat: recompute each block in the backward pass.
  """
  if module.is_initializing() or blocks.is_whole(x, block, summary):
    return method(module, x, summary, 0)
  unbound, variables = module.unbind()

  def apply(x, start, summary, variables, key):
    rngs = None if key is None else {"dropout": key}
    return unbound.apply(variables, x, summary, start, rngs=rngs, method=method)

  if remat and blocks.is_longer(x, block):  # a loop needs no CSE barrier
    apply = jax.checkpoint(apply, prevent_cse=False)
  key = module.make_rng("dropout") if module.has_rng("dropout") else None
  return blocks.in_blocks(apply, x, block, summary, variables, key)


class MultiHeadAttention(nn.Module, kw_only=True):
  """Base of attention modules, which add `num_heads`, `summarise` and `mix`.

  Attributes:
    query_block: process queries in blocks of this size; 0 is off.
    dtype: dtype of the matrix products.
    kernel_init: initializer of the four dense kernels.
    query_init, key_init: override `kernel_init` for W_Q and W_K unless None.
    rotary: whether queries and keys are rotated by their positions.
  """

  query_block: int = 0
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()
  query_init: Any = None
  key_init: Any = None
  rotary: bool = False

  def setup(self):
    inits = (self.query_init, self.key_init, None)
    self.query, self.key, self.value = (
      HeadDense(self.num_heads, self.dtype, init or self.kernel_init)
      for init in inits
    )
    self.out = OutDense(self.dtype, self.kernel_init)

  def check(self, features: int, *, memory: bool):
    """Raises a ValueError for attributes that do not fit.

    Args:
      features: M, the width of all heads together.
      memory: whether keys and values come from other rows than the queries.
    """
    split_width(features, self.num_heads)
    if memory and getattr(self, "causal", False):
      raise ValueError("causal attention is for attention to itself")
    if memory and self.rotary:
      raise ValueError(
        "rotary positions are for attention to itself: the rows of a memory "
        "have no distance from a query"
      )

  def rotate(self, x, start=0):
    """Returns queries or keys as `rotary` has them."""
    return rotary_lib.rotate(x, start) if self.rotary else x

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns what queries attend to, as a pytree of arrays [B, ...].

    Args:
      memory: rows [B, N, M'], with padding rows zeroed.
      mask: bool [B, N], True at real rows, or None, or `masks.Documents` for an
        attention that keeps them apart.
      features: M, the width of all heads together; None for M'.
      shared: what layers share, or None.
    """
    raise NotImplementedError

  def mix(self, q, summary, start, dropout):
    """Returns [B, N, H, D] for queries of that shape.

    Args:
      q: queries, not scaled.
      summary: made by `summarise`.
      start: index of the first query in the sequence.
      dropout: (rate, key) of dropout on attention weights, or None.
    """
    raise NotImplementedError

  def attend(self, x, summary, start=0, *, deterministic=True):
    """Attends from rows x [B, N, M], which begin at `start`, to a summary."""
    q = self.query(x, split_width(x.shape[-1], self.num_heads))
    q = self.rotate(q, start)
    rate, dropout = getattr(self, "dropout_rate", 0.0), None
    if rate and not deterministic:
      dropout = rate, self.make_rng("dropout")
    q = layout.constrain(q, "batch", "sequence", "heads")
    return self.out(self.mix(q, summary, start, dropout))

  def step(self, weights, q, k, v, cache, start, count):
    """Does what `extend` does, for one sequence.

    Args:
      weights: as `step_weights` returns them.
      q, k, v: [n, H, D], the queries not scaled.
      cache, start, count: of the sequence.

    Returns:
      [n, H, D], and the cache.
    """
    raise NotImplementedError

  def step_weights(self, head_dim, shared):
    """Returns the parameters that `step` needs, which may not read any."""
    del head_dim, shared

  def extend(self, x, cache, start, count, *, shared=None):
    """Attends from the next rows to themselves and to all before, if causal.

    Args:
      x: [B, n, M], the next rows of each sequence.
      cache: of the rows before: `AttentionConfig.init_cache`, stacked.
      start: int32 [B], how many rows those are. No multiple of `extend_block`
        may lie within the n rows.
      count: int32 [B], the real rows of x, which come first; the outputs of the
        others mean nothing. A sequence with none keeps its cache.
      shared: what layers share, or None.

    Returns:
      [B, n, M], and the cache.
    """
    head_dim = split_width(x.shape[-1], self.num_heads)
    weights = self.step_weights(head_dim, shared)
    q, k, v = (
      dense(x, head_dim) for dense in (self.query, self.key, self.value)
    )
    q, k = self.rotate(q, start), self.rotate(k, start)
    step = functools.partial(self.step, weights)
    out, found = jax.vmap(step)(q, k, v, cache, start, count)
    if x.shape[1] > 1:  # one row is written where the next one will be
      found = jax.tree.map(
        lambda new, old: jnp.where(
          (count > 0).reshape(-1, *(1,) * (old.ndim - 1)), new, old
        ),
        found,
        cache,
      )
    return self.out(out), found

  def __call__(
    self, x, memory=None, mask=None, *, shared=None, deterministic=True
  ):
    """Attends from x to itself, or to `memory`.

    Args:
      x: [B, N, M].
      memory: rows [B, N', M'] that make keys and values; None for x.
      mask: bool or integers 0 and 1, True at real rows of the memory ([B, N'],
        or [B, N] if x is the memory), or None; see `masks.check`. In
        cross-attention queries are not masked. `masks.Documents` if x is the
        memory and the attention keeps documents apart.
      shared: what layers share, in place of this module's own, or None.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      [B, N, M] in `dtype`.

    Raises:
      ValueError: if H does not divide M, the mask has the wrong shape or dtype
        (such as an additive mask), or an attribute does not fit.
    """
    self.check(x.shape[-1], memory=memory is not None)
    rows = (x if memory is None else memory).shape[:2]
    mask = masks.check(mask, rows, documents=memory is None)
    if memory is None:
      x = memory = select_real(x, mask)
    else:
      memory = select_real(memory, mask)
    summary = self.summarise(memory, mask, features=x.shape[-1], shared=shared)

    def attend(self, x, summary, start):
      return self.attend(x, summary, start, deterministic=deterministic)

    return in_query_blocks(self, attend, x, summary, self.query_block)

"""Linformer attention as a module that stands alone (arXiv 2006.04768)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax import flops
from linformer_jax.attention import functional, heads, projection

SHARING = ("none", "headwise", "key_value", "layerwise")


class SequenceProjection(nn.Module):
  """Holds the weights of one `Projection`; calling it returns that.

  Attributes:
    kind: one of `projection.KINDS`.
    max_length: N.
    projected_length: K.
    head_dim: D, for the channels of a convolution.
    num_heads: 0 for one projection shared by all heads, H for one each.
    weights_init: initialiser of a dense E, called with its shape. A random E is
      drawn from N(0, 1 / K) (the Johnson-Lindenstrauss lemma), is kept in the
      collection 'constants' and never trained.
  """

  kind: str
  max_length: int
  projected_length: int
  head_dim: int
  num_heads: int = 0
  weights_init: Any = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(self) -> projection.Projection:
    shape = projection.weights_shape(
      self.kind, self.max_length, self.projected_length, self.head_dim
    )
    weights = None
    if shape is not None:
      if self.num_heads:
        shape = (self.num_heads, *shape)
      if self.kind == "random":
        draw = nn.initializers.normal(self.projected_length**-0.5)
        weights = self.variable(
          "constants", "kernel", lambda: draw(self.make_rng("params"), shape)
        ).value
      elif self.kind == "convolution":
        fan_in = nn.initializers.variance_scaling(
          1.0,
          "fan_in",
          "truncated_normal",
          in_axis=(-3, -2),
          out_axis=-1,
          batch_axis=tuple(range(len(shape) - 3)),
        )
        weights = self.param("kernel", fan_in, shape)
      else:
        weights = self.param("kernel", self.weights_init, shape)
    return projection.Projection(
      self.kind, self.max_length, self.projected_length, weights
    )


class LinformerSelfAttention(nn.Module):
  """Multi-head attention onto K projected keys and values, O(N K).

  Attributes:
    num_heads: H; must divide the width M of the input.
    max_length: N, the longest memory; shorter ones use the first columns of E.
    projected_length: K <= N.
    sharing: 'none', one E and F for each head; 'headwise', one E and one F for
      all heads; 'key_value', E = F for all heads; 'layerwise', the same, and
      one for all layers when the caller passes it (`shared`).
    projection: 'linear', 'convolution' (kernel and stride N / K, in head
      channels), 'mean_pool', 'max_pool', or 'random' (fixed, never trained).
    order: 'auto' contracts E and F before W_K and W_V where that is cheaper;
      'before' and 'after' force it. The result is the same.
    dropout_rate: on the attention weights.
    query_block: queries handled at a time, 0 for all.
    dtype: of the matrix products.
    kernel_init: initialiser of the four dense kernels.
    projection_init: initialiser of E and F.
  """

  num_heads: int
  max_length: int
  projected_length: int
  sharing: str = "headwise"
  projection: str = "linear"
  order: str = "auto"
  dropout_rate: float = 0.0
  query_block: int = 0
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()
  projection_init: Any = nn.initializers.normal(0.02)

  def _projections(self, head_dim, shared):
    """E for the keys and F for the values; the same object where E = F."""
    if self.sharing not in SHARING:
      raise ValueError(
        f"sharing {self.sharing!r} is not one of {', '.join(SHARING)}"
      )
    if shared is not None:
      return shared, shared
    make = functools.partial(
      SequenceProjection,
      self.projection,
      self.max_length,
      self.projected_length,
      head_dim,
      self.num_heads if self.sharing == "none" else 0,
      self.projection_init,
    )
    weightless = self.projection in projection.POOLING
    if self.sharing in ("key_value", "layerwise") or weightless:
      one = make(name="projection")()
      return one, one
    return make(name="key_projection")(), make(name="value_projection")()

  def _order(self, memory):
    """'before' or 'after' W_K and W_V, for the memory [B, N, M] at hand."""
    if self.projection not in projection.COMMUTING:
      if self.order == "before":
        raise ValueError(
          f"projection {self.projection!r} does not commute with W_K and W_V: "
          "order must be 'auto' or 'after'"
        )
      return "after"
    if self.order != "auto":
      return self.order
    return flops.cheaper_order(
      self.sharing,
      memory.shape[1],
      self.projected_length,
      memory.shape[2],
      self.num_heads,
    )

  @nn.compact
  def __call__(
    self, x, memory=None, mask=None, shared=None, deterministic=True
  ):
    """Attends from x to itself, or to `memory`.

    Args:
      x: [B, N, M].
      memory: None, or what keys and values are made of [B, N', M'].
      mask: bool, True at real rows of the memory ([B, N'], or [B, N] when x is
        its own memory), or None. In cross-attention queries are not masked.
      shared: None, or the `Projection` that all layers share.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      [B, N, M] in `dtype`.

    Raises:
      ValueError: when the memory is longer than `max_length`, the heads do not
        divide the width, or the mask does not fit the memory.
    """
    head_dim = heads.split_width(x.shape[-1], self.num_heads)
    if memory is None:
      x = memory = heads.select_real(x, mask)
    else:
      memory = heads.select_real(memory, mask)
    memory = jnp.asarray(memory, self.dtype)
    key_projection, value_projection = self._projections(head_dim, shared)

    order = self._order(memory)

    def project(rows, by):
      return projection.project_sequence(rows, by, mask)[0]

    def dense(name, x, between=None):
      return heads.HeadDense(
        self.num_heads, head_dim, self.dtype, self.kernel_init, name=name
      )(x, between)

    if order == "after":
      k = dense("key", memory, lambda rows: project(rows, key_projection))
      v = dense("value", memory, lambda rows: project(rows, value_projection))
    else:
      rows = project(memory, key_projection)
      k = dense("key", rows)
      if value_projection is not key_projection:
        rows = project(memory, value_projection)
      v = dense("value", rows)

    dropout = None
    if self.dropout_rate and not deterministic:
      dropout = nn.Dropout(self.dropout_rate, deterministic=False)
    attended = functional.projected_attention(
      dense("query", x),
      k,
      v,
      projection.slot_mask(key_projection, mask),
      query_block=self.query_block,
      dropout=dropout,
    )
    return heads.output_dense(attended, self.dtype, self.kernel_init)

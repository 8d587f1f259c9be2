"""Linformer attention as a standalone module (arXiv 2006.04768)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax import flops
from linformer_jax.attention import heads, masks, projection
from linformer_jax.parallel import layout

SHARING = ("none", "headwise", "key_value", "layerwise")
ORDERS = ("auto", "before", "after")


class SequenceProjection(nn.Module):
  """Holds the weights of one `Projection` and returns it when called.

  Attributes:
    kind: one of `projection.KINDS`.
    max_length: N.
    projected_length: K.
    num_heads: H for one projection per head, 0 for one that all heads share.
    weights_init: initializer of a learned E or of convolution kernels. None is
      N(0, 0.02²) for E, as in the authors' code, and fan-in variance scaling
      for kernels. A random E is drawn from N(0, 1 / K) (Johnson-Lindenstrauss
      lemma), stored in the collection 'constants' and never trained.
  """

  kind: str
  max_length: int
  projected_length: int
  num_heads: int = 0
  weights_init: Any = None

  @nn.compact
  def __call__(self, head_dim) -> projection.Projection:
    """Returns the projection; head_dim D sets a convolution's channels."""
    shape = projection.weights_shape(
      self.kind, self.max_length, self.projected_length, head_dim
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
        fan_in = nn.initializers.variance_scaling(  # fan-in W * D
          1.0,
          "fan_in",
          "truncated_normal",
          batch_axis=tuple(range(len(shape) - 3)),
        )
        weights = self.param(
          "window_kernel", self.weights_init or fan_in, shape
        )
      else:
        normal = nn.initializers.normal(0.02)
        weights = self.param("kernel", self.weights_init or normal, shape)
    return projection.Projection(
      self.kind, self.max_length, self.projected_length, weights
    )


class LinformerSelfAttention(nn.Module):
  """Multi-head attention over K projected keys and values, O(N K).

  Attributes:
    num_heads: H; must divide the width M of the input.
    max_length: N, the longest memory; shorter ones use the first columns of E.
    projected_length: K <= N.
    sharing: 'none', an E and an F per head; 'headwise', one E and one F for all
      heads; 'key_value', E = F for all heads; 'layerwise', E = F for all heads
      and all layers, passed by the caller as `shared`.
    projection: 'linear', 'convolution' (kernel and stride N / K, in head
      channels), 'mean_pool', 'max_pool', or 'random' (fixed, never trained).
    order: 'auto' contracts E and F before W_K and W_V if that is cheaper;
      'before' and 'after' force the order. The result is the same.
    dropout_rate: dropout on the attention weights.
    local_window: each query also attends to its own row and this many rows on
      either side, in one softmax with the slots; 0 is off. Not in the paper;
      see `local.attend`. Not supported with a memory, `query_block` or an
      implementation other than 'xla'.
    query_block: process queries in blocks of this size; 0 is off.
    implementation: see `functional.projected_attention`.
    dtype: dtype of the matrix products.
    kernel_init: initializer of the four dense kernels.
    query_init, key_init: override `kernel_init` for W_Q and W_K unless None.
    projection_init: initializer of E and F, or None; see `SequenceProjection`.
  """

  num_heads: int
  max_length: int
  projected_length: int
  sharing: str = "headwise"
  projection: str = "linear"
  order: str = "auto"
  dropout_rate: float = 0.0
  local_window: int = 0
  query_block: int = 0
  implementation: str = "xla"
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.xavier_uniform()
  query_init: Any = None
  key_init: Any = None
  projection_init: Any = None

  def setup(self):
    if self.sharing not in SHARING:
      raise ValueError(
        f"sharing {self.sharing!r} is not one of {', '.join(SHARING)}"
      )
    maps = heads.dense_maps(self)
    self.query, self.key, self.value, self.out, self.drop = maps

    def make(name):
      return SequenceProjection(
        self.projection,
        self.max_length,
        self.projected_length,
        self.num_heads if self.sharing == "none" else 0,
        self.projection_init,
        name=name,
      )

    weightless = self.projection in projection.POOLING
    if self.sharing in ("key_value", "layerwise") or weightless:
      self.key_by = self.value_by = make("projection")
    else:
      self.key_by = make("key_projection")
      self.value_by = make("value_projection")

  def _order(self, memory, features, by, shared):
    """Returns 'before' or 'after' W_K and W_V for this memory [B, N, M]."""
    commutes = by.kind in projection.COMMUTING
    choices = ORDERS if commutes else ("auto", "after")
    if self.order not in choices:
      raise ValueError(
        f"order {self.order!r} is not one of {', '.join(choices)}, those of "
        f"projection {by.kind!r}"
      )
    if not commutes:
      return "after"
    if self.order != "auto":
      return self.order
    if by.kind in projection.POOLING:  # no products, and fewer rows after it
      return "before"
    return flops.cheaper_order(
      self.sharing if shared is None else "layerwise",
      memory.shape[1],
      by.projected_length,
      features,
      self.num_heads,
      memory.shape[2],
    )

  def keys_and_values(self, memory, features, mask=None, shared=None):
    """Returns the `memory` that `heads.attend` takes.

    Args:
      memory: rows [B, N, M'], with padding rows zeroed.
      features: M, the width of all heads together.
      mask: [B, N] or None, as `masks.check` takes it.
      shared: see `__call__`.

    Returns:
      k, v [B, H, K, D]; bool [B, K], True at slots that saw a real row, or None
      if all did; with `local_window`, (keys, values [B, N, H, D], mask) of the
      unprojected rows, else None.
    """
    mask = masks.check(mask, memory.shape[:2])
    head_dim = heads.split_width(features, self.num_heads)
    memory = jnp.asarray(memory, self.dtype)
    if shared is not None:
      key_by = value_by = shared
    else:
      key_by = value_by = self.key_by(head_dim)
      if self.value_by is not self.key_by:
        value_by = self.value_by(head_dim)

    def project(rows, by):
      rows = projection.project_sequence(rows, by, mask)[0]
      split = ("heads",) if rows.ndim == 4 else ()
      return layout.constrain(rows, "batch", None, *split)

    near = None
    if self.local_window:  # needs every row through W_K and W_V anyway
      k, rows_k = self.key(
        memory, head_dim, lambda rows: project(rows, key_by), both=True
      )
      v, rows_v = self.value(
        memory, head_dim, lambda rows: project(rows, value_by), both=True
      )
      near = rows_k, rows_v, mask
    elif self._order(memory, features, key_by, shared) == "after":
      k = self.key(memory, head_dim, lambda rows: project(rows, key_by))
      v = self.value(memory, head_dim, lambda rows: project(rows, value_by))
    else:
      rows = project(memory, key_by)
      k = self.key(rows, head_dim)
      if value_by is not key_by:
        rows = project(memory, value_by)
      v = self.value(rows, head_dim)
    k, v = heads.by_head(k, v)
    return k, v, projection.slot_mask(key_by, mask), near

  def attend(self, x, memory, deterministic=True):
    """Attends from x [B, N, M] to a `memory` made by `keys_and_values`."""
    return heads.attend(self, x, memory, deterministic, self.local_window)

  def __call__(
    self, x, memory=None, mask=None, shared=None, deterministic=True
  ):
    """Attends from x to itself, or to `memory`.

    Args:
      x: [B, N, M].
      memory: rows [B, N', M'] that make keys and values; None for x.
      mask: bool or integers 0 and 1, True at real rows of the memory ([B, N'],
        or [B, N] if x is the memory), or None; see `masks.check`. In
        cross-attention queries are not masked.
      shared: None, or the `Projection` that all layers share, which replaces
        this module's own.
      deterministic: False applies dropout (rng 'dropout').

    Returns:
      [B, N, M] in `dtype`.

    Raises:
      ValueError: if the memory is longer than `max_length`, H does not divide
        M, the mask has the wrong shape or dtype (such as an additive mask), or
        an attribute is not one of its choices.
    """
    mask = masks.check(mask, (x if memory is None else memory).shape[:2])
    if memory is None:
      x = memory = heads.select_real(x, mask)
    elif self.local_window:
      raise ValueError(
        f"local_window {self.local_window} is for attention to itself, not to "
        "a memory: its rows have no neighbours among the queries"
      )
    else:
      memory = heads.select_real(memory, mask)
    return heads.in_query_blocks(
      self,
      lambda self, x, memory: self.attend(x, memory, deterministic),
      x,
      self.keys_and_values(memory, x.shape[-1], mask, shared),
      self.query_block,
    )

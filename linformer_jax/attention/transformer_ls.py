"""Long-short attention: slots that the rows choose, and near rows.

Transformer-LS (Zhu et al. 2021, arXiv 2107.02192, section 3), bidirectional.
Its causal form, with a projection of each segment of past rows, is left out.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks, ops
from linformer_jax.attention.ops import window as window_op
from linformer_jax.attention.ops import xla


def layer_norm(dtype):
  """Normalizes the heads and D of rows [B, N, H, D] together.

  As in the authors' code, keys and values share its scale and bias.
  """
  return nn.LayerNorm(
    epsilon=1e-5,
    dtype=dtype,
    use_fast_variance=False,
    reduction_axes=(-2, -1),
    feature_axes=(-2, -1),
  )


class TransformerLSSelfAttention(heads.MultiHeadAttention):
  """One softmax over K dynamic slots and w rows on either side of a query.

  P_i = softmax(X W_P,i), over the rows [B, N, K] of each head; K'_i = P_i^T K_i
  and V'_i = P_i^T V_i; head_i = softmax(Q_i [LN_G(K'_i); LN_L(K_i near)]^T /
  sqrt(D)) [LN_G(V'_i); LN_L(V_i near)]. O(N (K + w)).

  Each query has a window of its own; in the paper all queries of a segment have
  that of the segment. Slots are projections of keys and values that are not yet
  normalized, as in the authors' autoregressive code; their code for images and
  Long Range Arena projects normalized ones.

  Attributes:
    num_heads: H; must divide the width M of the input.
    projected_length: K, r in the paper; 0 for no slots.
    window: w, which includes the query's own row; 0 for no near rows.
    dropout_rate: dropout on the attention weights.
  """

  num_heads: int
  projected_length: int
  window: int
  dropout_rate: float = 0.0

  def setup(self):
    super().setup()
    # W_P. Its bias, which the authors' code has, cancels in the softmax.
    self.dynamic = heads.HeadDense(self.num_heads, self.dtype, self.kernel_init)
    self.slot_norm = layer_norm(self.dtype)
    self.row_norm = layer_norm(self.dtype)

  def check(self, features, *, memory):
    super().check(features, memory=memory)
    if self.window and memory:
      raise ValueError(
        f"window {self.window} is for attention to itself, not to a memory: "
        "its rows have no neighbors among the queries; set window=0"
      )

  def dynamic_projection(self, memory, mask=None):
    """Returns P^T [B, H, K, N]: each slot's weights, which padding lacks."""
    scores = self.dynamic(memory, self.projected_length).astype(jnp.float32)
    allowed = None if mask is None else mask[:, None, None]
    return xla.masked_softmax(scores.transpose(0, 2, 3, 1), allowed)

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns (k, v [B, H, K, D], mask [B, K]) of slots, and a halo of rows.

    The mask is None if all rows are real; either is None if it is off.
    """
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    mask = masks.check(mask, memory.shape[:2])
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    slots = halo = None
    if self.projected_length:
      p = self.dynamic_projection(memory, mask).astype(k.dtype)
      k_slots, v_slots = (
        self.slot_norm(jnp.einsum("bhkn,bnhd->bkhd", p, rows))
        for rows in (k, v)
      )
      seen = None
      if mask is not None:
        seen = jnp.any(mask, axis=1, keepdims=True)
        seen = jnp.broadcast_to(seen, k_slots.shape[:2])
      slots = *heads.by_head(k_slots, v_slots), seen
    if self.window:
      halo = window_op.halo(
        self.row_norm(k), self.row_norm(v), mask, self.window
      )
    return slots, halo

  def mix(self, q, summary, start, dropout):
    """Returns the softmax over slots and near rows, times their values."""
    slots, halo = summary
    if halo is None:
      recompute = bool(self.query_block)
      return ops.attend(q, *slots, dropout=dropout, recompute=recompute)
    near = halo.around(start, q.shape[1])
    q = q * (q.shape[-1] ** -0.5)
    return window_op.attend(q, near, slots, dropout=dropout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerLSConfig(base.AttentionConfig):
  """Attributes as of `TransformerLSSelfAttention`."""

  projected_length: int = 32
  window: int = 64
  dropout_rate: float = 0.0

  name: ClassVar[str] = "transformer_ls"
  Module: ClassVar = TransformerLSSelfAttention
  parameters: ClassVar = (
    *base.AttentionConfig.parameters,
    ("dynamic/kernel", ("embed", "heads")),
    ("dynamic/bias", ("heads",)),
  )

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    base.require_rate("dropout_rate", self.dropout_rate)
    base.require_slots(self.projected_length, sizes.max_length, least=0)
    base.require_range("window", self.window, 0)
    if not self.projected_length and not self.window:
      raise ValueError(
        "projected_length 0 and window 0 leave nothing to attend to: raise one"
      )
    base.require_window(
      "window", self.window, length or sizes.max_length, shards
    )

  def flops(self, sizes, n):
    m, k = sizes.embed_dim, self.projected_length
    projecting = 2 * n * m * sizes.num_heads * k + 4 * n * k * m  # W_P; P^T
    seen = k + (min(2 * self.window + 1, n) if self.window else 0)
    return super().flops(sizes, n) + projecting + 4 * n * seen * m

"""Attention through a short sequence that layers hand on.

Luna (Ma et al. 2021, arXiv 2106.01540, section 3), bidirectional. Its causal
form, in which each row sees what earlier rows packed, is left out.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks, ops
from linformer_jax.attention.ops import xla
from linformer_jax.parallel import layout

SHARING = ("key_value", "none")


class PackedRows(nn.Module):
  """The learned P [K, M] that the first layer packs into."""

  num_heads: int
  projected_length: int

  @nn.compact
  def __call__(self, head_dim):
    m = self.num_heads * head_dim
    normal = nn.initializers.normal(m**-0.5)  # as in the authors' code
    return self.param("embedding", normal, (self.projected_length, m))


class LunaSelfAttention(heads.MultiHeadAttention):
  """Two attentions in turn, O(N K): pack N rows into K, and unpack them.

  Y_P = Attn(P, X, X); Y_X = Attn(X, Y_P, Y_P). In an encoder P is learned once,
  and LN(Y_P + P) is the P of the next layer that has this attention. P is
  normalized after the sum in pre-norm encoders too. A module alone has a P of
  its own. Only the weights of unpacking have dropout.

  Attributes:
    num_heads: H, of both attentions; must divide the width M of the input.
    projected_length: K, the rows of P; l in the paper.
    sharing: 'key_value', W_K = W_V in each of the two; or 'none'.
    dropout_rate: dropout on the attention weights.
  """

  num_heads: int
  projected_length: int
  sharing: str = "key_value"
  dropout_rate: float = 0.0

  def setup(self):
    super().setup()
    base.require_choice("sharing", self.sharing, SHARING)
    self.packed = PackedRows(self.num_heads, self.projected_length)
    self.pack_query, self.pack_key, self.pack_value = (
      heads.HeadDense(self.num_heads, self.dtype, self.kernel_init)
      for _ in range(3)
    )
    self.pack_norm = nn.LayerNorm(
      epsilon=1e-5, dtype=self.dtype, use_fast_variance=False
    )

  def _keys_and_values(self, key, value, x, head_dim):
    k = key(x, head_dim)
    return k, k if self.sharing == "key_value" else value(x, head_dim)

  def _pack(self, p, x, mask, head_dim):
    """Returns Y_P = Attn(P, X, X) [B, K, M] for P [B, K, M]."""
    q = self.pack_query(p, head_dim) * head_dim**-0.5
    k, v = self._keys_and_values(self.pack_key, self.pack_value, x, head_dim)
    # Devices that share a sequence sum over their rows.
    scores = jnp.einsum(
      "bkhd,bnhd->bhkn", q, k, preferred_element_type=jnp.float32
    )
    allowed = None if mask is None else mask[:, None, None]
    weights = xla.masked_softmax(scores, allowed).astype(v.dtype)
    y = jnp.einsum("bhkn,bnhd->bkhd", weights, v)
    return layout.constrain(y, "batch", None, "heads").reshape(p.shape)

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns keys and values of Y_P [B, H, K, D], a mask [B, K], and Y_P.

    Args:
      memory, mask, features: see `heads.MultiHeadAttention`.
      shared: P [B, K, M] that another layer handed on, or None for its own.
    """
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    mask = masks.check(mask, memory.shape[:2])
    p = self.packed(head_dim) if shared is None else shared
    p = jnp.asarray(p, self.dtype)
    p = jnp.broadcast_to(p, (len(memory), *p.shape[-2:]))
    y = self._pack(p, memory, mask, head_dim)
    k, v = self._keys_and_values(self.key, self.value, y, head_dim)
    seen = None
    if mask is not None:
      seen = jnp.any(mask, axis=1, keepdims=True)
      seen = jnp.broadcast_to(seen, y.shape[:2])
    return *heads.by_head(k, v), seen, y

  def carry(self, shared, summary):
    """Returns LN(Y_P + P) [B, K, M], which the next layer is given."""
    return self.pack_norm(shared + summary[3])

  def mix(self, q, summary, start, dropout):
    """Returns Y_X = Attn(X, Y_P, Y_P)."""
    recompute = bool(self.query_block)
    return ops.attend(q, *summary[:3], dropout=dropout, recompute=recompute)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LunaConfig(base.AttentionConfig):
  """Attributes as of `LunaSelfAttention`."""

  projected_length: int = 16
  sharing: str = "key_value"
  dropout_rate: float = 0.0

  name: ClassVar[str] = "luna"
  Module: ClassVar = LunaSelfAttention
  shares: ClassVar[bool] = True
  carries: ClassVar[bool] = True
  parameters: ClassVar = (
    *base.AttentionConfig.parameters,
    ("pack_(query|key|value)/kernel", ("embed", "heads")),
    ("pack_(query|key|value)/bias", ("heads",)),
  )

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    base.require_rate("dropout_rate", self.dropout_rate)
    base.require_slots(self.projected_length, sizes.max_length)
    base.require_choice("sharing", self.sharing, SHARING)

  def shared(self, sizes):
    return PackedRows(sizes.num_heads, self.projected_length, name="packed")

  def flops(self, sizes, n):
    m, k = sizes.embed_dim, self.projected_length
    kinds = 1 if self.sharing == "key_value" else 2
    maps = 2 * m * m * (2 * n + k + kinds * (n + k))
    return maps + 8 * n * k * m

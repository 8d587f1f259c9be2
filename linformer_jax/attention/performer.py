"""Performer: random features that estimate the exponential of the softmax.

Choromanski et al. 2021, arXiv 2009.14794 (FAVOR+).
"""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from linformer_jax.attention import base, heads, masks
from linformer_jax.attention.ops import kernelized

# Sums of exp(60) stay finite in float32, whose largest exponent is 88.
_LARGEST_EXPONENT = 60


def draw_directions(key, num_features: int, head_dim: int):
  """Draws w [F, D], each from N(0, I_D), and orthogonal in blocks of D.

  They are the rows of random rotations, with norms of independent normal
  vectors (section 2.4).
  """
  turn, stretch = jax.random.split(key)
  count = -(-num_features // head_dim)
  w = jax.random.orthogonal(turn, head_dim, (count,)).reshape(-1, head_dim)
  norms = jnp.linalg.norm(jax.random.normal(stretch, w.shape), axis=1)
  return (w * norms[:, None])[:num_features]


def exponents(x, w):
  """Returns log phi(x) = w x' - |x'|^2 / 2 - log(F) / 2, x' = x / D^(1/4).

  E[phi(q) phi(k)^T] = exp(q k^T / sqrt(D)) over draws of w (lemma 1).

  Args:
    x: queries or keys [..., D].
    w: directions [F, D].

  Returns:
    float32 [..., F].
  """
  x = x.astype(jnp.float32) * x.shape[-1] ** -0.25
  norm = jnp.sum(x * x, axis=-1, keepdims=True)
  return jnp.einsum("...d,fd->...f", x, w) - (norm + math.log(len(w))) / 2


class Directions(nn.Module):
  """Holds w, which is drawn by `init` and neither trained nor drawn again.

  Attributes:
    num_features: F.
  """

  num_features: int

  @nn.compact
  def __call__(self, head_dim):
    """Returns w [F, D], from the collection 'constants'."""

    def draw():
      key = self.make_rng("params")
      return draw_directions(key, self.num_features, head_dim)

    return self.variable("constants", "kernel", draw).value


def _largest(w):
  """Returns what to subtract from exponents of keys, whatever the keys.

  No key then overflows, as w k - |k|^2 / 2 <= |w|^2 / 2.
  """
  norm = jnp.max(jnp.sum(w * w, axis=1))
  return jnp.maximum(norm / 2 - _LARGEST_EXPONENT, 0)


def _query_features(q, w):
  """Returns phi(q) over its largest entry, which cancels in the weights."""
  exponent = exponents(q, w)
  top = jnp.max(exponent, axis=-1, keepdims=True)
  return jnp.exp(exponent - jax.lax.stop_gradient(top))


class PerformerSelfAttention(heads.MultiHeadAttention):
  """softmax(Q K^T / sqrt(D)) V with phi(Q) phi(K)^T for exp(Q K^T / sqrt(D)).

  All heads of a layer use the same w. The authors draw it again now and then
  in training; here it keeps its first value, as a random projection does. They
  also add a small constant to phi, which would bias the products.

  Attributes:
    num_heads: H; must divide the width M of the input.
    num_features: F.
    causal: whether a query attends to no row after its own.
  """

  num_heads: int
  num_features: int
  causal: bool = False

  def setup(self):
    super().setup()
    self.directions = Directions(self.num_features)

  def summarise(self, memory, mask=None, *, features=None, shared=None):
    """Returns sums over real rows; see `kernelized.summarise`."""
    del shared
    head_dim = heads.split_width(features or memory.shape[-1], self.num_heads)
    k, v = self.key(memory, head_dim), self.value(memory, head_dim)
    w = self.directions(head_dim)
    exponent = exponents(k, w)
    mask = masks.check(mask, memory.shape[:2])
    if mask is not None:  # before exp, whose gradient could be infinite
      exponent = jnp.where(mask[..., None, None], exponent, -jnp.inf)
    # One factor for all keys, here exp(-top), cancels in the weights.
    if self.causal:  # later keys must not matter, so not the largest exponent
      top = _largest(w)
    else:
      top = jnp.max(exponent, axis=(1, 3), keepdims=True)
      top = jax.lax.stop_gradient(jnp.where(top > -jnp.inf, top, 0))
    return kernelized.summarise(jnp.exp(exponent - top), v, None, self.causal)

  def mix(self, q, summary, start, dropout):
    """Returns the normalized sum of values; zero if no row is real."""
    del dropout
    phi = _query_features(q, self.directions(q.shape[-1]))
    return kernelized.attend(phi, summary, start, self.causal).astype(q.dtype)

  def step_weights(self, head_dim, shared):
    """Returns w."""
    del shared
    return self.directions(head_dim)

  def step(self, weights, q, k, v, cache, start, count):
    """See `kernelized.step`."""
    del start
    keys = jnp.exp(exponents(k, weights) - _largest(weights))
    queries = _query_features(q, weights)
    out, cache = kernelized.step(queries, keys, v, cache, count)
    return out.astype(q.dtype), cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerformerConfig(base.AttentionConfig):
  """Attributes as of `PerformerSelfAttention`."""

  num_features: int = 256

  name: ClassVar[str] = "performer"
  Module: ClassVar = PerformerSelfAttention
  causal: ClassVar[bool] = True
  # So trained softmax attention, which has no w, can start this one.
  projections: ClassVar[tuple[str, ...]] = ("directions",)

  def check(self, sizes, length=None, shards=1):
    super().check(sizes, length, shards)
    base.require_range("num_features", self.num_features, 1)

  def init_cache(self, sizes, length):
    return kernelized.init_sums(sizes, self.num_features)

  def flops(self, sizes, n):
    features = 4 * n * sizes.embed_dim * self.num_features  # of Q and of K
    mixing = kernelized.flops(sizes, n, self.num_features)
    return super().flops(sizes, n) + features + mixing

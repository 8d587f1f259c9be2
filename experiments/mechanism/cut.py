"""Softmax attention of a trained model, cut to a band or to a rank.

A `Cut` has the parameters of softmax attention, so it evaluates a checkpoint
of a softmax model whose matrices P = softmax(Q K^T / sqrt(D)) it replaces: by
softmax over the rows at most `band` away, or by the best approximation of rank
`rank` in the Frobenius norm (Eckart and Young 1936), which no projection of
keys and values to `rank` rows can beat.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from linformer_jax.attention import base, softmax
from linformer_jax.attention.ops import xla


def low_rank(matrices, rank: int):
  """Returns the best approximation of [..., N, N] of a rank."""
  u, s, v = jnp.linalg.svd(matrices, full_matrices=False)
  near = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]

  def projected():
    # P V V^T, V the first eigenvectors of P^T P, is the same, less precisely.
    _, v = jnp.linalg.eigh(matrices.swapaxes(-1, -2) @ matrices)
    v = v[..., -rank:]
    return matrices @ v @ v.swapaxes(-1, -2)

  # LAPACK's gesdd does not always converge near a permutation, and is NaN then.
  return jax.lax.cond(jnp.isfinite(near).all(), lambda: near, projected)


class CutSelfAttention(softmax.SoftmaxSelfAttention):
  """Softmax attention with a cut matrix, for evaluation.

  Attributes:
    band: attend to rows at most this far away; -1 to all.
    rank: of the matrix P; 0 for all of it.
  """

  band: int = -1
  rank: int = 0

  def mix(self, q, summary, start, dropout):
    del dropout
    k, v, mask = summary
    scores = jnp.einsum("bnhd,bhkd->bhnk", q, k) * q.shape[-1] ** -0.5
    allowed = None if mask is None else mask[:, None, None]
    if self.band >= 0:
      rows = start + jnp.arange(q.shape[1])
      near = jnp.abs(rows[:, None] - jnp.arange(k.shape[2])) <= self.band
      allowed = near if allowed is None else near & allowed
    weights = xla.masked_softmax(scores.astype(jnp.float32), allowed)
    if self.rank:
      weights = low_rank(weights, self.rank)
    return jnp.einsum("bhnk,bhkd->bnhd", weights.astype(v.dtype), v)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut(softmax.SoftmaxConfig):
  """Attributes as of `CutSelfAttention`."""

  band: int = -1
  rank: int = 0

  name: ClassVar[str] = "cut"
  Module: ClassVar = CutSelfAttention


def layers(count: int, which: int | None, cut: Cut) -> tuple:
  """Returns the attention of each layer: one of them cut, or all (None)."""
  plain: base.AttentionConfig = softmax.SoftmaxConfig()
  return tuple(
    cut if which in (None, layer) else plain for layer in range(count)
  )

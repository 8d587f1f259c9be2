"""Attention with the weights phi(q_i) phi(k_j)^T / sum_j phi(q_i) phi(k_j)^T.

phi has F features, so sums over rows take the place of the N x N weights
(Katharopoulos et al. 2020, arXiv 2006.16236, equations 5 and 9). Here k and q
are features: float32 [B, N, H, F].
"""

import math

import jax
import jax.numpy as jnp

from linformer_jax.attention import masks
from linformer_jax.parallel import blocks, layout

_LEAST_CHUNK = 16
_LEAST_WEIGHT = 1e-30  # and its inverse is far from overflow


def chunk_length(head_dim: int) -> int:
  """Returns how many rows C of causal attention lie between stored sums.

  The sums, F (D + 1) floats every C >= D rows, are about as large as phi(K).
  """
  return max(head_dim, _LEAST_CHUNK)


def flops(sizes, n: int, features: int) -> int:
  """Returns the FLOPs of the products below for n rows of all heads.

  Args:
    sizes: a `base.Sizes`.
    n: rows of queries and of memory.
    features: F.
  """
  d = sizes.head_dim
  products = 2 * n * features * (2 * d + 1)
  if sizes.causal:  # a query also multiplies the near rows of two chunks
    chunk = chunk_length(d)
    products += 4 * -(-n // chunk) * chunk**2 * (features + d)
  return products * sizes.num_heads


def summarise(k, v, mask=None, causal=False):
  """Returns sums over real rows: phi(k_j)^T v_j and phi(k_j).

  Args:
    k: phi(K) [B, N, H, F], nonnegative.
    v: values [B, N, H, D].
    mask: bool [B, N], True at real rows, or None.
    causal: whether a query attends to no row after its own.

  Returns:
    The sums over all rows, [B, H, F, D] and [B, H, F]; if causal, a
    `blocks.Halo` of k and v, and one of the sums before each chunk of rows.
  """
  mask = masks.check(mask, k.shape[:2])
  if mask is not None:
    k = jnp.where(mask[..., None, None], k, 0)
  v = v.astype(jnp.float32)
  if causal:
    return _prefixes(k, v)
  sums = jnp.einsum("bnhf,bnhd->bhfd", k, v), jnp.sum(k, axis=1)
  return tuple(layout.constrain(x, "batch", "heads") for x in sums)


def attend(q, summary, start=0, causal=False):
  """Returns the weighted means of values, [B, N, H, D] for phi(Q) [B, N, H, F].

  A query whose weights sum to less than 1e-30 gets zero.

  Args:
    q: phi(Q), nonnegative.
    summary: made by `summarise`.
    start: index of the first query in the sequence.
    causal: as in `summarise`.
  """
  if causal:
    total, weight = _near_and_before(q, *summary, start)
  else:
    kv, k = summary
    total = jnp.einsum("bnhf,bhfd->bnhd", q, kv)
    weight = jnp.einsum("bnhf,bhf->bnh", q, k)
  return _divided(total, weight)


def init_sums(sizes, features: int):
  """Returns the sums of `step` over no rows, float32 [H, F, D] and [H, F]."""
  heads, width = sizes.num_heads, sizes.head_dim
  return (
    jnp.zeros((heads, features, width), jnp.float32),
    jnp.zeros((heads, features), jnp.float32),
  )


def step(q, k, v, sums, count):
  """Attends from the next rows of one sequence, and adds them to the sums.

  Args:
    q, k: phi(Q), phi(K) float32 [n, H, F].
    v: [n, H, D].
    sums: over earlier rows; see `init_sums`.
    count: the real rows, which come first.

  Returns:
    [n, H, D] float32, and the sums.
  """
  at = jnp.arange(len(k))
  k = jnp.where((at < count)[:, None, None], k, 0)
  v = v.astype(jnp.float32)
  weights = jnp.where(at <= at[:, None], jnp.einsum("ihf,jhf->hij", q, k), 0)
  total = jnp.einsum("hij,jhd->ihd", weights, v)
  total += jnp.einsum("ihf,hfd->ihd", q, sums[0])
  weight = weights.sum(-1).T + jnp.einsum("ihf,hf->ih", q, sums[1])
  sums = sums[0] + jnp.einsum("jhf,jhd->hfd", k, v), sums[1] + k.sum(0)
  return _divided(total, weight), sums


def _divided(total, weight):
  """Returns total [..., D] over weight [...], or zero if that is small."""
  some = (weight > _LEAST_WEIGHT)[..., None]
  weight = jnp.where(some, weight[..., None], 1)
  # Divide twice: the gradient of one division would divide by weight^2, which
  # is 0 in float32 for a weight below 1e-19.
  scale = jax.lax.stop_gradient(weight)
  return jnp.where(some, total / scale, 0) / (weight / scale)


def _in_chunks(x, chunk):
  """[B, N, ...] -> [B, T, C, ...], padded with zeros."""
  short = -x.shape[1] % chunk
  x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))
  return x.reshape(len(x), -1, chunk, *x.shape[2:])


def _earlier(x, axis):
  """Returns the sum of what comes earlier on an axis; of nothing at first.

  Not cumsum(x) - x, in which a large x would cancel what came before it.
  """
  before = [(0, 0)] * x.ndim
  before[axis] = (1, 0)
  kept = jnp.take(x, jnp.arange(x.shape[axis] - 1), axis)
  return jnp.cumsum(jnp.pad(kept, before), axis)


def _prefixes(k, v):
  """Returns the rows, and the sums of all rows before each chunk, as halos.

  A device sums the chunks of its own rows, and all exchange their totals.
  """
  parts, length = layout.shards("sequence"), k.shape[1]
  chunk = chunk_length(v.shape[-1])
  if parts > 1:  # chunks do not cross devices
    chunk = math.gcd(chunk, length // parts)
  rows_k, rows_v = (_in_chunks(x, chunk) for x in (k, v))
  sums = jnp.einsum("btchf,btchd->bthfd", rows_k, rows_v), rows_k.sum(2)

  def before(x):  # [B, T, ...] -> [B, S, T / S, ...] for S devices
    x = x.reshape(len(x), parts, -1, *x.shape[2:])
    x = layout.constrain(x, "batch", "sequence", None, "heads")
    return _earlier(x, 2) + _earlier(x.sum(2), 1)[:, :, None]

  first = jnp.arange(parts, dtype=jnp.int32) * (rows_k.shape[1] // parts)
  first = jnp.broadcast_to(first, (len(k), parts))
  states = blocks.Halo(tuple(map(before, sums)), first, width=0)
  return blocks.with_halo((k, v), chunk), states


def _near_and_before(q, rows, states, start):
  """Returns sums of weights times values, and of weights, over rows j <= i.

  A chunk of queries that begins at row s takes the sums before row s - s % C
  from the states, and the products with the rows from there on one by one.
  """
  chunk, length = rows.width, q.shape[1]
  q = _in_chunks(q, chunk)

  def near(x):  # rows from C before each chunk of queries to its last
    x = _in_chunks(x[:, : length + chunk], chunk)
    return jnp.concatenate([x[:, :-1], x[:, 1:]], axis=2)

  k, v = map(near, rows.around(start, length))
  before = states.around(start // chunk, q.shape[1])
  at = jnp.arange(2 * chunk)
  seen = (at <= chunk + jnp.arange(chunk)[:, None]) & (
    at >= chunk - start % chunk
  )
  weights = jnp.einsum("btchf,btjhf->bthcj", q, k)
  weights = jnp.where(seen, weights, 0)
  total = jnp.einsum("bthcj,btjhd->btchd", weights, v)
  total += jnp.einsum("btchf,bthfd->btchd", q, before[0])
  weight = weights.sum(-1).swapaxes(2, 3)
  weight += jnp.einsum("btchf,bthf->btch", q, before[1])
  return tuple(
    x.reshape(len(x), -1, *x.shape[3:])[:, :length] for x in (total, weight)
  )

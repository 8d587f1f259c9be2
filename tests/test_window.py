"""Attention to near rows, alone and beside slots, in one softmax."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import ops, order
from linformer_jax.attention.ops import window
from linformer_jax.parallel import sharding
from tests import arrays

SLOW = pytest.mark.slow
B, N, K, H, D = 2, 37, 3, 2, 4
# True at rows and slots that there are; the second sequence has gaps.
REAL = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])
SLOTS = np.array([[1, 1, 1], [1, 0, 1]], bool)


def inputs(n=N):
  """q, k, v, and keys and values of the rows."""
  q, near_k, near_v = (arrays.draw(B, n, H, D, seed=i) for i in range(3))
  k, v = (arrays.draw(B, H, K, D, seed=i) for i in (3, 4))
  return q, k, v, near_k, near_v


def near_rows(rows, real, width, start=0, count=N):
  """What `window.attend` takes for queries from `start`."""
  return window.halo(*rows, real, width).around(start, count)


def by_definition(q, k, v, near_k, near_v, slots, real, width, causal):
  """softmax over K slots and all N rows, those beyond the window left out."""
  n = q.shape[1]
  scores = jnp.concatenate(
    [
      jnp.einsum("bnhd,bhkd->bhnk", q, k),
      jnp.einsum("bnhd,bjhd->bhnj", q, near_k),
    ],
    axis=-1,
  )
  distance = np.arange(n) - np.arange(n)[:, None]
  near = (distance >= -width) & (distance <= (0 if causal else width))
  allowed = np.concatenate(
    [
      np.broadcast_to(slots[:, None], (B, n, K)),
      real[:, None] & near,
    ],
    axis=-1,
  )[:, None]
  weights = jnp.where(allowed, jnp.exp(scores), 0)
  total = weights.sum(-1, keepdims=True)
  weights /= jnp.where(total == 0, 1, total)
  slot_part = jnp.einsum("bhnk,bhkd->bnhd", weights[..., :K], v)
  return slot_part + jnp.einsum("bhnj,bjhd->bnhd", weights[..., K:], near_v)


@pytest.mark.parametrize(
  ("masked", "beside", "causal"),
  [(False, True, False), (True, True, False), (True, False, True)],
)
@pytest.mark.parametrize(
  "width", [1, 20, *(pytest.param(w, marks=SLOW) for w in (0, 5, 16, N))]
)
def test_value_and_gradients_are_those_of_the_definition(
  width, masked, beside, causal
):
  """Windows below, at and above a block of queries, and beyond the sequence."""
  slots, real = (SLOTS, REAL) if masked else (SLOTS | True, REAL | True)
  toward = arrays.draw(B, N, H, D, seed=9)

  def run(function):
    def loss(*args):
      out = function(*args)
      return jnp.sum(out * toward), out

    gradient = jax.jit(jax.grad(loss, tuple(range(5)), has_aux=True))
    return gradient(*inputs())

  def ours(q, k, v, *rows):
    near = near_rows(rows, real if masked else None, width)
    others = (k, v, slots if masked else None) if beside else None
    return window.attend(q, near, others, causal)

  def want(*args):
    return by_definition(*args, slots & beside, real, width, causal)

  (got_grads, got), (want_grads, wanted) = run(ours), run(want)
  terms = (D, 2 * width + 1 + K)  # of a score; of the softmax and the sum
  arrays.close(got, wanted, *terms)
  for a, b in zip(got_grads, want_grads, strict=True):
    arrays.close(a, b, *terms, *terms, N)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("slots", [None, np.zeros((B, K), bool)])
def test_a_window_over_all_rows_without_slots_is_softmax_attention(
  slots, causal
):
  q, k, v, *rows = inputs()
  near = near_rows(rows, REAL, N - 1)
  others = None if slots is None else (k, v, slots)
  got = window.attend(q, near, others, causal)
  near_k, near_v = (x.swapaxes(1, 2) for x in rows)
  want = ops.attend(q * D**0.5, near_k, near_v, REAL, causal=causal)
  arrays.close(got, want, D, N, N)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
  "width", [5, *(pytest.param(w, marks=SLOW) for w in (0, 20))]
)
@pytest.mark.parametrize("start, count", [(0, 5), (16, 7), (30, 7), (36, 1)])
def test_any_block_of_queries_gets_the_rows_of_the_whole(
  start, count, width, causal
):
  q, k, v, *rows = inputs()
  whole = window.attend(q, near_rows(rows, REAL, width), (k, v, SLOTS), causal)
  near = near_rows(rows, REAL, width, start, count)
  block = slice(start, start + count)
  got = window.attend(q[:, block], near, (k, v, SLOTS), causal)
  arrays.close(got, whole[:, block], D, 2 * width + 1 + K)


def test_a_row_with_nothing_near_and_no_slot_gets_nothing():
  q, k, v, *rows = inputs()
  real = np.arange(N)[None].repeat(B, 0) < 10
  near = near_rows(rows, real, 2)
  out = window.attend(q, near, (k, v, np.zeros((B, K), bool)))
  assert np.all(out[:, 12:] == 0) and np.all(np.any(out[:, :12] != 0, axis=-1))


def largest_array(n):
  rows = jax.ShapeDtypeStruct((1, n, 1, D), jnp.float32)
  slots = jax.ShapeDtypeStruct((1, 1, K, D), jnp.float32)

  def loss(q, k, v, *rows):
    near = near_rows(rows, None, 4, 0, n)
    return jnp.sum(window.attend(q, near, (k, v, None)) ** 2)

  gradient = jax.jit(jax.grad(loss, tuple(range(5))))
  text = gradient.lower(rows, slots, slots, rows, rows).compile().as_text()
  shapes = re.findall(r"\b(?:f32|pred|s32)\[([\d,]+)\]", text)
  return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_memory_is_linear_in_the_length():
  assert largest_array(4096) <= 4 * largest_array(1024) < 1024**2


def test_flops_are_those_of_the_slots_the_window_and_all_rows():
  n, k, m, h, width = 64, 8, 32, 4, 3
  sizes = attention.Sizes(m, h, n)

  def flops(**fields):
    kind = attention.LinformerConfig(
      projected_length=k, local_window=width, **fields
    )
    return kind.flops(sizes, n)

  for sharing in ("none", "headwise", "layerwise"):
    slots = 4 * n * m * m + 4 * n * k * m
    slots += order.flops("after", sharing, n, k, m, h)
    assert flops(sharing=sharing) == slots + 4 * n * 7 * m
  pooled = flops(projection="mean_pool")
  assert pooled == 8 * n * m * m + 4 * n * (k + 7) * m
  local = attention.LocalConfig(window=width)
  assert local.flops(sizes, n) == 8 * n * m * m + 4 * n * 7 * m
  causal = dataclasses.replace(sizes, causal=True)
  assert local.flops(causal, n) == 8 * n * m * m + 4 * n * 4 * m


def test_what_it_does_not_go_with():
  x, key = arrays.draw(1, 8, 4), jax.random.key(0)

  def config(kind):
    return models.ModelConfig(7, 8, 1, 4, 2, 8, kind)

  def linformer(**fields):
    return attention.LinformerConfig(projected_length=4, **fields)

  module = attention.LinformerSelfAttention(2, 8, 4, local_window=2)
  with pytest.raises(ValueError, match="local_window 2"):
    module.init(key, x, x)
  with pytest.raises(ValueError, match="local"):
    attention.LocalSelfAttention(2, 2).init(key, x, x)
  for implementation in ("flash", "cpu", "cudnn"):
    fields = {"local_window": 2, "implementation": implementation}
    message = f"local_window 2.*{implementation}"
    with pytest.raises(ValueError, match=message):
      config(linformer(**fields))
    with pytest.raises(ValueError, match=message):
      attention.LinformerSelfAttention(2, 8, 4, **fields).init(key, x)
  with pytest.raises(ValueError, match="local_window -1"):
    config(linformer(local_window=-1))
  with pytest.raises(ValueError, match="window -1"):
    config(attention.LocalConfig(window=-1))

  class Mesh:
    shape = {"data": 1, "fsdp": 1, "sequence": 2, "tensor": 1}

  for make in (
    lambda width: linformer(local_window=width),
    lambda width: attention.LocalConfig(window=width),
  ):
    sharding.check_model(config(make(4)), 8, Mesh)
    with pytest.raises(ValueError, match="window 5.*4 rows.*sequence=2"):
      sharding.check_model(config(make(5)), 8, Mesh)

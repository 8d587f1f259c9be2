"""Attention to near rows beside projected slots, in one softmax."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, flops, models
from linformer_jax.attention import local
from linformer_jax.parallel import sharding
from tests import arrays

B, N, K, H, D = 2, 37, 3, 2, 4
# True at rows and slots that there are; the second sequence has gaps.
REAL = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])
SLOTS = np.array([[1, 1, 1], [1, 0, 1]], bool)


def inputs(n=N):
  """q, k, v, and keys and values of the rows."""
  q, near_k, near_v = (arrays.draw(B, n, H, D, seed=i) for i in range(3))
  k, v = (arrays.draw(B, H, K, D, seed=i) for i in (3, 4))
  return q, k, v, near_k, near_v


def by_definition(q, k, v, near_k, near_v, slots, real, window):
  """softmax over K slots and all N rows, those beyond the window left out."""
  n = q.shape[1]
  scores = jnp.concatenate(
    [
      jnp.einsum("bnhd,bhkd->bhnk", q, k),
      jnp.einsum("bnhd,bjhd->bhnj", q, near_k),
    ],
    axis=-1,
  )
  near = abs(np.arange(n)[:, None] - np.arange(n)) <= window
  allowed = np.concatenate(
    [
      np.broadcast_to(slots[:, None], (B, n, K)),
      real[:, None] & near,
    ],
    axis=-1,
  )[:, None]
  weights = jnp.where(allowed, jnp.exp(scores), 0)
  weights /= weights.sum(-1, keepdims=True)
  slot_part = jnp.einsum("bhnk,bhkd->bnhd", weights[..., :K], v)
  return slot_part + jnp.einsum("bhnj,bjhd->bnhd", weights[..., K:], near_v)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [1, 5, 16, 20, N])
def test_value_and_gradients_are_those_of_the_definition(window, masked):
  """Windows below, at and above a block of queries, and beyond the sequence."""
  slots, real = (SLOTS, REAL) if masked else (SLOTS | True, REAL | True)
  toward = arrays.draw(B, N, H, D, seed=9)

  def run(function):
    def loss(*args):
      out = function(*args)
      return jnp.sum(out * toward), out

    gradient = jax.jit(jax.grad(loss, tuple(range(5)), has_aux=True))
    return gradient(*inputs())

  def ours(q, k, v, near_k, near_v):
    near = near_k, near_v, real if masked else None
    return local.attend(q, k, v, slots if masked else None, near, window)

  def want(*args):
    return by_definition(*args, slots, real, window)

  (got_grads, got), (want_grads, wanted) = run(ours), run(want)
  terms = (D, 2 * window + 1 + K)  # of a score; of the softmax and the sum
  arrays.close(got, wanted, *terms)
  for a, b in zip(got_grads, want_grads, strict=True):
    arrays.close(a, b, *terms, *terms, N)


def test_a_window_over_all_rows_without_slots_is_softmax_attention():
  q, k, v, near_k, near_v = inputs()
  near = near_k, near_v, REAL
  got = local.attend(q, k, v, np.zeros((B, K), bool), near, N - 1)
  want = attention.projected_attention(q * D**0.5, near_k, near_v, REAL)
  arrays.close(got, want, D, N, N)


def test_a_row_with_nothing_near_and_no_slot_gets_nothing():
  q, k, v, near_k, near_v = inputs()
  real = np.arange(N)[None].repeat(B, 0) < 10
  near = near_k, near_v, real
  out = local.attend(q, k, v, np.zeros((B, K), bool), near, 2)
  assert np.all(out[:, 12:] == 0) and np.all(np.any(out[:, :12] != 0, axis=-1))


def largest_array(n, gradient=True):
  rows = jax.ShapeDtypeStruct((1, n, 1, D), jnp.float32)
  slots = jax.ShapeDtypeStruct((1, 1, K, D), jnp.float32)

  def loss(q, k, v, near_k, near_v):
    return jnp.sum(local.attend(q, k, v, None, (near_k, near_v, None), 4) ** 2)

  gradient = jax.jit(jax.grad(loss, tuple(range(5))))
  text = gradient.lower(rows, slots, slots, rows, rows).compile().as_text()
  shapes = re.findall(r"\b(?:f32|pred|s32)\[([\d,]+)\]", text)
  return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_memory_is_linear_in_the_length():
  assert largest_array(4096) <= 4 * largest_array(1024) < 1024**2


def test_flops_are_those_of_the_slots_the_window_and_all_rows():
  n, k, m, h, window = 64, 8, 32, 4, 3
  for sharing in ("none", "headwise", "layerwise"):
    slots = 4 * n * m * m + flops.keys_and_values("after", sharing, n, k, m, h)
    slots += 4 * n * k * m
    got = flops.attention("linformer", "linear", sharing, n, k, m, h, window)
    assert got == slots + 4 * n * 7 * m
  pooled = flops.attention("linformer", "mean_pool", "", n, k, m, h, window)
  assert pooled == 8 * n * m * m + 4 * n * (k + 7) * m


def test_what_it_does_not_go_with():
  module = attention.LinformerSelfAttention(2, 8, 4, local_window=2)
  x = arrays.draw(1, 8, 4)
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="local_window 2"):
    module.init(key, x, x)
  fields = (7, 8, 1, 4, 2, 8)
  blocks = {"query_block": 4}, {"attention_implementation": "flash"}
  for other in blocks:
    other = {"local_window": 2, "projected_length": 4} | other
    with pytest.raises(ValueError, match="local_window 2"):
      models.ModelConfig(*fields, **other)
    other["implementation"] = other.pop("attention_implementation", "xla")
    del other["projected_length"]
    with pytest.raises(ValueError, match="local_window 2"):
      attention.LinformerSelfAttention(2, 8, 4, **other).init(key, x)
  with pytest.raises(ValueError, match="local_window -1"):
    models.ModelConfig(*fields, projected_length=4, local_window=-1)

  class Mesh:
    shape = {"data": 1, "fsdp": 1, "sequence": 2, "tensor": 1}

  config = models.ModelConfig(*fields, projected_length=4, local_window=2)
  with pytest.raises(ValueError, match="local_window 2.*sequence=2"):
    sharding.check_model(config, 8, Mesh)

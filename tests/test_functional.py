"""Attention of queries onto slots: masks, query blocks, dropout."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention
from linformer_jax.parallel import blocks
from tests import arrays


def weights_of(q, k, mask=None, **kwargs):
  """Attention weights [B, N, H, K], read off by values that are unit rows."""
  b, slots, heads, _ = k.shape
  units = np.eye(slots, dtype=np.float32)[None, :, None]
  units = np.broadcast_to(units, (b, slots, heads, slots))
  return attention.projected_attention(q, k, units, mask, **kwargs)


@pytest.mark.parametrize("block", [0, 3])
def test_masked_slots_get_no_attention(block):
  b, n, slots, heads, d = 3, 8, 6, 2, 4
  q, k = arrays.draw(b, n, heads, d), arrays.draw(b, slots, heads, d, seed=1)
  mask = np.array([[1, 1, 0, 1, 0, 0], [0] * 6, [1] * 6], bool)
  got = np.asarray(
    jax.jit(weights_of, static_argnames="query_block")(
      q, k, mask, query_block=block
    )
  )
  by_slot = np.moveaxis(got, 3, 1)
  assert np.all(by_slot[~mask] == 0)
  assert np.all(by_slot[mask] > 0)
  sums = got.sum(-1)  # K quotients of one sum of K terms
  np.testing.assert_allclose(
    sums[np.array([0, 2])], 1, rtol=0, atol=2 * slots * arrays.EPS
  )
  assert np.all(sums[1] == 0)  # a row with no slot attends to nothing


@pytest.mark.parametrize("length", [12, 11, 3])
def test_query_blocks_change_neither_value_nor_gradient(length):
  b, slots, heads, d, block = 2, 5, 2, 4, 4
  q = arrays.draw(b, length, heads, d)
  k, v = (
    arrays.draw(b, slots, heads, d, seed=1),
    arrays.draw(b, slots, heads, d, seed=2),
  )
  mask = np.array([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
  toward = arrays.draw(b, length, heads, d, seed=3)

  def run(query_block):
    def loss(q, k, v):
      out = attention.projected_attention(
        q, k, v, mask, query_block=query_block
      )
      return jnp.sum(out * toward), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

  (whole, want), (blocked, got) = run(0), run(block)
  # Sums over D, K and, for k and v, over the queries: values of size one.
  terms = d + slots + d
  np.testing.assert_allclose(got, want, rtol=0, atol=terms * arrays.EPS)
  for a, b in zip(blocked, whole, strict=True):
    scale = max(1, np.max(abs(b)))
    bound = (terms + length) * arrays.EPS * scale
    np.testing.assert_allclose(a, b, rtol=0, atol=bound)


@pytest.mark.parametrize(
  ("batch", "length", "block", "shape"),
  [
    (4, 6, 2, (1, 6)),  # 8 rows: one whole sequence of 6
    (4, 6, 3, (2, 6)),
    (5, 3, 2, (1, 3)),  # 10 rows hold three sequences, which do not divide 5
    (3, 7, 2, (3, 2)),  # 6 rows hold no whole one
    (1, 7, 2, (1, 2)),
  ],
)
def test_whole_sequences_are_taken_where_they_fit(batch, length, block, shape):
  """The shapes that the function sees, on any platform and in a run."""
  x, summary = arrays.draw(batch, length, 2), arrays.draw(batch, 2, seed=1)
  variables = arrays.draw(2, seed=2)
  traced, seen = set(), []

  def function(x, start, summary, variables, key):
    traced.add(x.shape[:2])
    jax.debug.callback(lambda x: seen.append(x.shape[:2]), x)
    rows = start + jnp.arange(x.shape[1])[:, None]
    noise = jax.random.uniform(key, x.shape)
    return rows + x * summary[:, None] + variables + noise

  got = blocks.in_blocks(
    function, x, block, summary, variables, jax.random.key(0)
  )
  jax.block_until_ready(got)
  jax.effects_barrier()
  assert traced <= {shape, (batch, length % block)}
  assert seen.count(shape) == batch * length // math.prod(shape)
  rows = np.arange(length)[:, None]
  # Other draws for each block.
  noise = got - (rows + x * summary[:, None] + variables)
  assert np.all((noise > -1e-5) & (noise < 1 + 1e-5))
  assert len(np.unique(np.round(noise, 4))) > 0.9 * noise.size


SIZES = (1, 2048, 128, 2, 4)  # B, N, K, H, D


def compiled(query_block, gradient):
  b, n, slots, heads, d = SIZES

  def forward(q, k, v):
    return attention.projected_attention(q, k, v, query_block=query_block)

  def loss(q, k, v):
    return jnp.sum(forward(q, k, v) ** 2)

  function = jax.grad(loss, (0, 1, 2)) if gradient else forward
  rows = jax.ShapeDtypeStruct((b, n, heads, d), jnp.float32)
  memory = jax.ShapeDtypeStruct((b, slots, heads, d), jnp.float32)
  return jax.jit(function).lower(rows, memory, memory).compile()


def largest_array(text):
  shapes = re.findall(r"\b(?:f32|bf16|pred)\[([\d,]+)\]", text)
  return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.parametrize("gradient", [False, True])
def test_query_blocks_never_hold_all_scores(gradient):
  """Neither pass has a buffer of B H N K; the queries are the largest."""
  b, n, slots, heads, d = SIZES
  whole, blocked = compiled(0, gradient), compiled(32, gradient)
  assert largest_array(whole.as_text()) == b * heads * n * slots
  assert largest_array(blocked.as_text()) == b * n * heads * d
  # The compiler may take one head at a time, and holds its scores at least.
  one_head = 4 * n * slots
  assert whole.memory_analysis().temp_size_in_bytes > one_head
  assert blocked.memory_analysis().temp_size_in_bytes < one_head


@pytest.mark.parametrize(("batch", "block"), [(1, 0), (1, 16), (4, 16)])
def test_dropout_keeps_its_rate_and_the_expectation(batch, block):
  """Weights are dropped with rate p and the rest is scaled by 1 / (1 - p).

  Blocks of queries, and of whole sequences, draw for themselves.
  """
  rate, n, slots = 0.3, 64, 16
  q = arrays.draw(batch, n, 2, 4)
  k = arrays.draw(batch, slots, 2, 4, seed=1)
  plain = np.asarray(weights_of(q, k))
  key = jax.random.key(0)
  got = np.asarray(
    weights_of(q, k, query_block=block, dropout_rate=rate, dropout_key=key)
  )
  kept = got != 0
  np.testing.assert_allclose(
    got[kept], plain[kept] / (1 - rate), rtol=4 * arrays.EPS
  )
  error = math.sqrt(rate * (1 - rate) / got.size)
  assert abs(kept.mean() - (1 - rate)) < 5 * error
  assert len(np.unique(kept.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize(
  "fields",
  [{}, {"query_block": 4}, {"local_window": 1, "query_block": 4}],
)
def test_module_dropout_is_by_key_and_has_the_right_mean(fields):
  b, n, k, m, rate, samples = 1, 6, 4, 8, 0.4, 2000
  x = arrays.draw(b, n, m)
  module = attention.LinformerSelfAttention(
    2, n, k, dropout_rate=rate, **fields
  )
  variables = jax.jit(module.init)(jax.random.key(0), x)
  exact = jax.jit(module.apply)(variables, x)

  @jax.jit
  @jax.vmap
  def run(key):
    rngs = {"dropout": key}
    return module.apply(variables, x, deterministic=False, rngs=rngs)

  keys = jax.random.split(jax.random.key(1), samples)
  draws = np.asarray(run(keys))
  np.testing.assert_array_equal(draws[:3], np.asarray(run(keys))[:3])
  assert not np.array_equal(draws[0], draws[1])
  # The output is linear in the weights, so that dropout leaves its mean.
  error = draws.std(0) / math.sqrt(samples)
  assert np.all(error > 0)
  assert np.all(abs(draws.mean(0) - exact) < 5 * error)


@pytest.mark.parametrize("implementation", ["flash", "cpu", "cudnn"])
def test_dropout_needs_weights(implementation):
  q, k = (arrays.draw(1, n, 2, 4).astype(jnp.bfloat16) for n in (8, 4))
  with pytest.raises(ValueError, match=f"dropout_rate 0.1.*{implementation}"):
    attention.projected_attention(
      q,
      k,
      k,
      implementation=implementation,
      dropout_rate=0.1,
      dropout_key=jax.random.key(0),
    )


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there may be cuDNN")
def test_cudnn_needs_a_gpu():
  q, k = (arrays.draw(1, n, 2, 4).astype(jnp.bfloat16) for n in (8, 4))
  with pytest.raises(ValueError, match="cudnn.*needs an NVIDIA GPU.*'flash'"):
    attention.projected_attention(q, k, k, implementation="cudnn")

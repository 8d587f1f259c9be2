"""Attention that keeps no scores equals the one that does, gradients too."""

import dataclasses
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import ops
from linformer_jax.attention.ops import cpu, flash
from tests import arrays

B, N, H, D = 2, 11, 2, 4
MASKS = {"all": None, "some": (1.0, 0.6), "none in a row": (0.7, 0.0)}


@functools.cache
def run(k, shares, **kwargs):
  """Result and gradients toward a random direction, onto k slots."""
  q, toward = arrays.draw(B, N, H, D), arrays.draw(B, N, H, D, seed=3)
  keys, values = (arrays.draw(B, k, H, D, seed=seed) for seed in (1, 2))
  mask = None
  if shares:
    mask = np.arange(k) < np.array([[round(k * share)] for share in shares])

  def loss(q, keys, values):
    out = attention.projected_attention(q, keys, values, mask, **kwargs)
    return jnp.sum(out * toward), out

  grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, keys, values)
  return out, *grads


# Ways through the heads, and what runs them on every device.
HEADS = {"one by one": cpu.one_by_one, "together": flash.together}
# Keys: one block, two, two and 3.
CASES = [
  pytest.param(*case, marks=() if i % 3 == 0 else pytest.mark.slow)
  for i, case in enumerate(
    (mask, k, block, heads)
    for block, heads in itertools.product((0, 4), HEADS)
    for j, k in enumerate((7, 16, 19))
    for mask in [*MASKS][j:] + [*MASKS][:j]  # each with each in every third
  )
]


@pytest.mark.parametrize(("mask", "k", "query_block", "heads"), CASES)
def test_equals_plain_attention(mask, k, query_block, heads, monkeypatch):
  monkeypatch.setattr(flash, "KEY_BLOCK", 8)
  attend = functools.partial(flash.attend, apply=HEADS[heads])
  monkeypatch.setitem(ops.IMPLEMENTATIONS, "flash", ops.Implementation(attend))
  want = run(k, MASKS[mask])
  got = run.__wrapped__(
    k, MASKS[mask], query_block=query_block, implementation="flash"
  )
  # Sums over D, K and, for keys and values, over the queries.
  terms = 2 * D + 2 * k + N
  for a, b in zip(got, want, strict=True):
    scale = max(1, np.max(abs(b)))
    np.testing.assert_allclose(a, b, rtol=0, atol=terms * arrays.EPS * scale)


def test_large_scores_neither_overflow_nor_vanish():
  q = 300 * arrays.draw(1, 6, 1, D)
  k, v = arrays.draw(1, 20, 1, D, seed=1), arrays.draw(1, 20, 1, D, seed=2)
  plain, got = (
    attention.projected_attention(q, k, v, implementation=name)
    for name in ("xla", "flash")
  )
  assert np.all(np.isfinite(got))
  # A score of size s has an absolute error of about D eps s.
  size = np.max(np.einsum("bnhd,bkhd->bhnk", abs(q), abs(k))) / math.sqrt(D)
  atol = 4 * D * arrays.EPS * size * np.max(abs(v))
  np.testing.assert_allclose(got, plain, rtol=0, atol=atol)


def test_one_head_at_a_time_on_a_cpu_only():
  """Elsewhere the heads are one batched product and no loop, unless asked."""
  rows = jax.ShapeDtypeStruct((B, N, 12, D), jnp.float32)
  for name, platform, loops in (
    ("flash", "cpu", 1),
    ("flash", "tpu", 0),
    ("flash", "cuda", 0),
    ("cpu", "tpu", 1),
  ):
    attend = functools.partial(
      attention.projected_attention, implementation=name
    )
    exported = jax.export.export(jax.jit(attend), platforms=[platform])
    text = exported(rows, rows, rows).mlir_module()
    assert text.count("stablehlo.while") == loops


def compiled(keys, gradient, **kwargs):
  b, n, h, d = 1, 2048, 2, 4
  rows = jax.ShapeDtypeStruct((b, n, h, d), jnp.float32)
  slots = jax.ShapeDtypeStruct((b, keys, h, d), jnp.float32)

  def forward(q, k, v):
    return attention.projected_attention(
      q, k, v, implementation="flash", **kwargs
    )

  def loss(q, k, v):
    return jnp.sum(forward(q, k, v) ** 2)

  function = jax.grad(loss, (0, 1, 2)) if gradient else forward
  return jax.jit(function).lower(rows, slots, slots).compile()


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_is_linear_in_queries_and_keys(gradient, monkeypatch):
  """No buffer is larger than a block of scores or the inputs."""
  monkeypatch.setattr(flash, "KEY_BLOCK", 128)
  text = compiled(2048, gradient, query_block=64).as_text()
  shapes = re.findall(r"\b(?:f32|bf16|pred)\[([\d,]+)\]", text)
  largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
  assert largest == 2048 * 2 * 4


CONFIG = dict(
  vocab_size=40,
  max_length=11,
  num_layers=1,
  embed_dim=16,
  num_heads=2,
  mlp_dim=24,
)
KINDS = {
  "linformer": attention.LinformerConfig(projected_length=4),
  "softmax": attention.SoftmaxConfig(),
}


def block_and_gradients(batch, kind, implementation="xla", **changes):
  kind = dataclasses.replace(KINDS[kind], implementation=implementation)
  config = models.ModelConfig(**CONFIG, attention=kind, **changes)
  block = models.Block(config, kind)
  x, toward = arrays.draw(batch, 11, 16), arrays.draw(batch, 11, 16, seed=1)
  mask = np.arange(11) < np.array([[11], [6]])[:batch]
  params = jax.jit(block.init)(jax.random.key(0), x)["params"]

  def loss(params, x):
    out = block.apply({"params": params}, x, mask)
    return jnp.sum(jnp.where(mask[..., None], out * toward, 0)), out

  grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
  return out * mask[..., None], grads


@pytest.mark.parametrize(
  ("kind", "norm", "implementation", "batch"),
  [
    ("linformer", "post", "flash", 2),
    ("softmax", "pre", "flash", 1),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ("linformer", "pre", "xla", 2),
        ("linformer", "pre", "flash", 1),
        ("softmax", "post", "flash", 2),
        ("softmax", "post", "xla", 1),
      )
    ),
  ],
)
def test_whole_layers_in_blocks(kind, norm, implementation, batch):
  """Queries, attention, MLP and norms block by block: the same layer."""
  whole = block_and_gradients(batch, kind, norm_position=norm)
  blocked = block_and_gradients(
    batch, kind, implementation, norm_position=norm, query_block=4
  )
  terms = 4 * 16 + 24 + 2 * 11  # of the products and norms of a layer
  for got, want in zip(
    jax.tree.leaves(blocked), jax.tree.leaves(whole), strict=True
  ):
    atol = terms * arrays.EPS * max(1, float(np.max(abs(want))))
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def test_dropout_differs_from_block_to_block():
  """A mask drawn once for all blocks would drop the same features in each."""
  kind = KINDS["linformer"]
  fields = {"max_length": 8, "dropout_rate": 0.5, "query_block": 4}
  config = models.ModelConfig(**CONFIG | fields, attention=kind)
  block = models.Block(config, kind)
  x = np.broadcast_to(arrays.draw(1, 1, 16), (1, 8, 16))  # rows that are alike
  variables = block.init(jax.random.key(0), x)
  exact = np.asarray(block.apply(variables, x))
  np.testing.assert_allclose(exact[0], np.tile(exact[0, :1], (8, 1)), atol=1e-5)
  rngs = {"dropout": jax.random.key(1)}
  y = np.asarray(block.apply(variables, x, deterministic=False, rngs=rngs))
  assert not np.allclose(y[:, :4], y[:, 4:], atol=1e-2)


def test_a_long_forward_pass_needs_little_beside_its_input():
  """Under a quarter of the input's bytes, at any length."""
  n = 65_536
  module = attention.LinformerSelfAttention(
    12, n, 128, "key_value", query_block=512, implementation="flash"
  )
  x = jax.ShapeDtypeStruct((1, n, 768), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  memory = jax.jit(module.apply).lower(variables, x).compile().memory_analysis()
  assert 0 < memory.temp_size_in_bytes < 0.25 * 4 * n * 768


def test_unknown_implementation():
  with pytest.raises(ValueError, match="'fast' is not one of xla, flash"):
    run(4, None, implementation="fast")

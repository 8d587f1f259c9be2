"""Kernels for TPUs compute what the reference does, and compile for chips."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linformer_jax import attention
from linformer_jax.attention import ops
from linformer_jax.attention.ops import pallas_tpu, xla
from linformer_jax.attention.ops.pallas_tpu import fused, head, slots, stream
from linformer_jax.parallel import layout
from linformer_jax.tools import aot
from tests import arrays

B = 2
# N, H, D, K, rows of a block. Blocks that do not divide N, slots and widths
# that do not fill registers, one row, one slot, several programs of heads.
SIZES = {
  "one block": (24, 2, 64, 16, 24),
  "a short last block": (37, 4, 32, 24, 8),
  "heads of 128": (20, 3, 128, 5, 8),
  "four programs of heads": (17, 8, 64, 33, 16),
  "one row and one slot": (1, 1, 32, 1, 1),
  "a long block": (9, 2, 96, 130, 16),
}
# All of them in float32 with a mask; the others with --slow.
CASES = [
  pytest.param(
    name,
    masked,
    dtype,
    marks=() if masked and dtype == jnp.float32 else pytest.mark.slow,
  )
  for name in SIZES
  for masked in (True, False)
  for dtype in (jnp.float32, jnp.bfloat16)
]
CASES.append(("a short last block", False, jnp.bfloat16))


def some_slots(k):
  """A mask [B, K]: no slot at all for one sequence, some for the other."""
  mask = np.random.default_rng(1).random((B, k)) < 0.5
  mask[0], mask[1, 0] = False, True
  return mask


def draw(*shape, seed, dtype=jnp.float32):
  return jnp.asarray(arrays.draw(*shape, seed=seed), dtype)


def assert_same(function, reference, args, dtype, *lengths):
  """Values and all gradients, within the rounding of sums of these lengths."""
  out, back = jax.vjp(jax.jit(function), *args)
  want, exact = jax.vjp(jax.jit(reference), *args)
  grads = draw(*out.shape, seed=9, dtype=out.dtype)
  found = jax.tree.leaves((out, *back(grads)))
  wanted = jax.tree.leaves((want, *exact(grads)))
  for got, expected in zip(found, wanted, strict=True):
    assert got.dtype == expected.dtype
    got, expected = (np.asarray(x, np.float32) for x in (got, expected))
    scale = max(1, abs(expected).max())
    if dtype == jnp.bfloat16:
      bound = 16 * float(jnp.finfo(jnp.bfloat16).eps) * scale
    else:
      bound = sum(lengths) * arrays.EPS * scale
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("name", "masked", "dtype"), CASES)
def test_attention_to_slots_is_the_reference(name, masked, dtype):
  n, h, d, k, rows = SIZES[name]
  q = draw(B, n, h, d, seed=0, dtype=dtype) * jnp.asarray(d**-0.5, dtype)
  keys, values = (draw(B, h, k, d, seed=i, dtype=dtype) for i in (1, 2))
  mask = jnp.asarray(some_slots(k)) if masked else None
  blocks = slots.Blocks(rows, slots.heads_of(h, d))

  def function(q, k, v):
    return slots.kernel(q, k, v, mask, blocks, interpret=True)

  def reference(q, k, v):
    return xla.attend(q, k, v, mask)

  assert_same(function, reference, (q, keys, values), dtype, n, k, d, 8)


def weights_of(m, dtype=jnp.float32):
  shapes = (m, m), (m,), (m, m), (m,)
  scales = m**-0.5, 1, m**-0.5, 1
  return pallas_tpu.Weights(
    *(
      draw(*shape, seed=3 + i) * scale
      for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    )
  )


@pytest.mark.parametrize(("name", "masked", "dtype"), CASES)
def test_the_sublayer_is_the_reference(name, masked, dtype):
  n, h, d, k, rows = SIZES[name]
  x = draw(B, n, h * d, seed=0, dtype=dtype)
  keys, values = (draw(B, h, k, d, seed=i, dtype=dtype) for i in (1, 2))
  mask = jnp.asarray(some_slots(k)) if masked else None
  kernel = functools.partial(fused.kernel, rows=rows, interpret=True)
  args = x, weights_of(h * d), keys, values
  assert_same(
    lambda *args: kernel(*args, mask),
    lambda *args: fused.reference(*args, mask),
    args,
    dtype,
    *(B * n, h * d, k, d, h * d),
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ("n", "m", "r", "rows"), [(40, 24, 6, 40), (300, 16, 10, 128), (1, 8, 1, 1)]
)
def test_the_projection_is_the_reference(n, m, r, rows, dtype):
  w, x = draw(r, n, seed=0), draw(3, n, m, seed=1, dtype=dtype)
  kernel = functools.partial(stream.kernel, rows=rows, interpret=True)
  assert_same(kernel, stream.reference, (w, x), dtype, 3 * n, m, r)


def test_under_vmap_scan_and_remat():
  n, h, d, k, rows = SIZES["a short last block"]
  x, weights = draw(B, n, h * d, seed=0), weights_of(h * d)
  keys, values = (draw(B, h, k, d, seed=i) for i in (1, 2))
  kernel = functools.partial(fused.kernel, rows=rows, interpret=True)

  def through(layer):
    def two_layers(x, weights, k, v):
      def step(x, scale):
        return jax.checkpoint(layer)(x, weights, k * scale, v), None

      return jax.lax.scan(step, x, jnp.array([1.0, 0.5]))[0]

    def one(x, weights, k, v):  # without the batch axis
      return two_layers(x[None], weights, k[None], v[None])[0]

    return jax.vmap(one, (0, None, 0, 0))

  assert_same(
    through(kernel),
    through(fused.reference),
    (x, weights, keys, values),
    jnp.float32,
    *(B * n, h * d, k, d) * 2,
  )


@pytest.mark.parametrize(
  "fields",
  [
    {"query_block": 8, "projection": "mean_pool"},
    {"order": "before"},
    {"order": "before", "sharing": "key_value", "query_block": 8},
  ],
)
def test_a_module_computes_the_same_with_it(fields):
  n, m, h, k = 20, 16, 2, 4
  x, mask = draw(B, n, m, seed=0), np.arange(n) < np.array([[n], [13]])
  modules = [
    attention.LinformerSelfAttention(h, n, k, implementation=name, **fields)
    for name in ("pallas_tpu", "xla")
  ]
  variables = arrays.filled(modules[1], x)
  apply = [
    lambda v, x, module=module: module.apply(v, x, None, mask)
    for module in modules
  ]
  assert_same(*apply, (variables, x), jnp.float32, B * n, m, k, m, 8)


def test_what_does_not_fit_vector_memory_is_done_in_parts():
  n, h, d, k = 4_096, 16, 64, 512
  sizes = (B, n, h * d), (B, h, k, d), jnp.bfloat16
  assert fused.choose(*sizes, head.DEFAULT_BUDGET) in head.ROWS
  small = head.BUDGETS["TPU v4"]
  assert fused.choose(*sizes, small) is None
  assert slots.choose(n, h, d, k, jnp.bfloat16, small) is not None
  assert slots.choose(n, h, 128, 100_000, jnp.float32, small) is None
  with pytest.raises(ValueError, match="does not fit 14 MiB of vector memory"):
    fused.kernel(
      jax.ShapeDtypeStruct((B, n, h * d), jnp.bfloat16),
      weights_of(h * d),
      *[jnp.zeros((B, h, k, d), jnp.bfloat16)] * 2,
      budget=small,
    )


def test_dropout_and_other_dtypes_are_refused():
  with pytest.raises(ValueError, match="dropout_rate 0.1 is not supported"):
    ops.check("pallas_tpu", dropout_rate=0.1)
  with pytest.raises(ValueError, match="needs dtype float32 or bfloat16"):
    ops.check("pallas_tpu", "float16")


CHIPS = ["v4:1", "v5e:1", "v5p:1", "v6e:1"]


def compiled(chip, function, shapes):
  """Compiles for a chip; shapes are trees of (shape, dtype)."""
  devices = np.array(aot.devices(chip))[:1]
  mesh = Mesh(devices, ("x",))
  place = NamedSharding(mesh, PartitionSpec())
  given = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
  )
  with layout.on_mesh(mesh, {}):
    return jax.jit(function).lower(*given).compile()


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chip", CHIPS)
def test_chips_compile_it_once_in_each_pass(chip, dtype):
  """The sublayer where it fits, else attention to slots alone."""
  n, m, h, k = 1_000, 768, 12, 256
  module = attention.LinformerSelfAttention(
    h, n, k, implementation="pallas_tpu", dtype=dtype, order="before"
  )
  x = jax.ShapeDtypeStruct((2, n, m), dtype)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)

  def gradient(variables, x):
    def loss(variables, x):
      return jnp.sum(module.apply(variables, x).astype(jnp.float32) ** 2)

    return jax.grad(loss, (0, 1))(variables, x)

  text = compiled(chip, gradient, (variables, x)).as_text()
  names = "projection", "projected_attention" if chip == "v4:1" else "sublayer"
  calls = [line for line in text.splitlines() if "tpu_custom_call" in line]
  for name, which in itertools.product(names, ("forward", "backward")):
    assert len([line for line in calls if f"{name}_{which}" in line]) == 1
  assert len(calls) == 4


@pytest.mark.tpu
def test_traffic_of_the_sublayer_is_near_the_floor():
  """By the compiler's count, at RoBERTa-base's sizes."""
  b, n, h, d, k = 8, 4_096, 12, 64, 128
  m, dtype = h * d, jnp.bfloat16
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=dtype)
  x, slot = shape((b, n, m)), shape((b, h, k, d))
  matrix, bias = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((m, m), (m,)))
  weights = pallas_tpu.Weights(matrix, bias, matrix, bias)

  def both(layer):
    def passes(dy, *args):
      y, back = jax.vjp(layer, *args)
      return y, back(dy)

    found = compiled("v5e:1", passes, (x, x, weights, slot, slot))
    return found.cost_analysis()["bytes accessed"]

  # X, Y, dY and dX once, and X again; weights, K' and V' and their gradients.
  rows, params, memory = 5 * 2 * b * n * m, 4 * 2 * m * m, 2 * 2 * b * k * m
  floor = rows + 3 * params + 3 * memory
  traffic = both(fused.kernel)
  assert floor <= traffic <= 1.25 * floor
  assert traffic <= 0.5 * both(fused.reference)

"""Analytic FLOPs: the paper's formulas, and what XLA counts."""

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from linformer_jax import attention, flops, models
from linformer_jax.attention import linformer
from linformer_jax.attention import order as order_lib
from linformer_jax.attention import projection as projection_lib

KEY = jax.random.key(0)
HEADS = 4


def forward(config, n, predictions):
  """Of a masked language model on one sequence."""
  head = flops.token_head(config, predictions, dense=True)
  return flops.encoder(config, n) + head


def encoder_layer(n, d, kind):
  """A layer with an MLP of 4 d, as in the paper's formulas."""
  config = models.ModelConfig(7, n, 1, d, d // 64, 4 * d, kind)
  return flops.encoder(config, n)


def test_formulas_of_the_paper():
  """Per layer; n tokens, width d, projected length k."""
  n, d, k = 512, 768, 128
  make = order_lib.flops
  h = d // 64
  rest = 24 * n * d**2 - 4 * n * d**2 + 4 * n * k * d
  assert encoder_layer(n, d, attention.SoftmaxConfig()) == (
    24 * n * d**2 + 4 * n**2 * d
  )
  assert rest + make("after", "headwise", n, k, d, h) == (
    24 * n * d**2 + 8 * n * k * d
  )
  assert rest + make("before", "headwise", n, k, d, h) == (
    20 * n * d**2 + 4 * k * d**2 + 8 * n * k * d
  )
  for sharing in ("key_value", "layerwise"):  # E = F is applied once
    assert rest + make("before", sharing, n, k, d, h) == (
      20 * n * d**2 + 4 * k * d**2 + 6 * n * k * d
    )
    kind = attention.LinformerConfig(projected_length=k, sharing=sharing)
    assert encoder_layer(n, d, kind) == (
      20 * n * d**2 + 4 * k * d**2 + 6 * n * k * d
    )
  # One E and one F a head: each contracts all of X, or its own head of K.
  assert make("before", "none", n, k, d, h) == 4 * h * n * k * d + 4 * k * d**2
  assert make("after", "none", n, k, d, h) == 4 * n * d**2 + 4 * n * k * d


def test_ratios_of_the_paper_by_flops_alone():
  """1.21x at n = 512 and 17.4x at n = 65536 for k = 128, E = F (12 layers)."""
  kind = attention.LinformerConfig(projected_length=128, sharing="layerwise")
  for n, ratio in ((512, 1.21), (65536, 17.4)):
    plain = encoder_layer(n, 768, attention.SoftmaxConfig())
    ours = encoder_layer(n, 768, kind)
    assert float(f"{plain / ours:.3g}") == ratio


def test_head_and_update():
  config = models.ModelConfig(50, 16, 2, 8, 2, 32, attention.SoftmaxConfig())
  assert flops.token_head(config, 3) == 3 * 2 * 8 * 50
  assert flops.token_head(config, 3, dense=True) == 3 * (2 * 8 * 50 + 2 * 8**2)


def test_layers_of_their_own_attention():
  def flops_of(kind):
    config = models.ModelConfig(50, 16, 3, 8, 2, 32, kind)
    return flops.encoder(config, 16)

  each = [
    attention.LinformerConfig(projected_length=8),
    attention.LinformerConfig(projected_length=4),
    attention.SoftmaxConfig(),
  ]
  assert flops_of(each) == sum(map(flops_of, each)) / 3
  lengths = attention.LinformerConfig(projected_lengths=(8, 4, 4))
  assert flops_of(lengths) == flops_of([*each[:2], each[1]])


def jaxpr_flops(jaxpr):
  """Two for each multiply-add of every dot_general, loops times length."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contract, _), _ = equation.params["dimension_numbers"]
      product = 2
      for axis in contract:
        product *= equation.invars[0].aval.shape[axis]
      for size in equation.outvars[0].aval.shape:
        product *= size
      total += product
    inside = [
      jaxpr_flops(getattr(inner, "jaxpr", inner))
      for inner in jax.extend.core.jaxprs_in_params(equation.params)
    ]
    if equation.primitive.name == "cond":  # one form for a CPU, one for others
      assert len(set(inside)) == 1
      inside = inside[:1]
    total += equation.params.get("length", 1) * sum(inside)
  return total


OTHERS = {
  "softmax": attention.SoftmaxConfig(),
  "feature map": attention.LinearConfig(),
  "dynamic": attention.TransformerLSConfig(projected_length=6, window=0),
  "packed": attention.LunaConfig(projected_length=6),
  "resolutions": attention.AdaMRAConfig(
    ratios=(1, 3), compression="convolution"
  ),
  "resolutions of heads": attention.AdaMRAConfig(
    ratios=(1, 4),
    compression="linear",
    kernel="softmax",
    heads="coarse_to_fine",
  ),
  "landmarks": attention.NystromConfig(num_landmarks=6),
  "random features": attention.PerformerConfig(num_features=6),
  "cosine": attention.CosformerConfig(),
}
CASES = [("linear", sharing) for sharing in linformer.SHARING] + [
  (kind, "headwise") for kind in projection_lib.KINDS[1:]
]


def traced(config, n, predictions):
  module = models.MaskedLM(config)
  tokens = jnp.zeros((1, n), jnp.int32)
  positions = jnp.zeros((1, predictions), jnp.int32)
  variables = jax.eval_shape(module.init, KEY, tokens, None, positions)
  return module.apply, (variables, tokens, None, positions)


@pytest.mark.parametrize(
  ("kind", "sharing", "scan_layers"),
  [(*case, True) for case in CASES + [(kind, "") for kind in OTHERS]]
  + [("linear", "none", False), ("softmax", "", False)],
)
def test_equal_the_products_of_the_program(kind, sharing, scan_layers):
  """Exactly: every dot_general in the traced masked language model."""
  layer = OTHERS.get(kind) or attention.LinformerConfig(
    projected_length=6, projection=kind, sharing=sharing
  )
  config = models.ModelConfig(
    29, 24, 3, 16, 4, 40, layer, scan_layers=scan_layers
  )
  for n in (24, 8):
    apply, args = traced(config, n, 5)
    jaxpr = jax.make_jaxpr(apply)(*args).jaxpr
    assert forward(config, n, 5) == jaxpr_flops(jaxpr)


@pytest.mark.parametrize(
  "kind",
  [attention.SoftmaxConfig(), attention.LinformerConfig(projected_length=64)],
)
def test_agree_with_the_compilers_count(kind):
  """XLA also counts element-wise work: E of them an entry, below 1 / width.

  Every array that a product makes has at least 2 * 64 FLOPs an entry (the
  shortest contraction is head_dim = 64), and fewer than a dozen element-wise
  operations follow an entry: softmax, gelu and layer norm are the longest.
  """
  config = models.ModelConfig(
    256, 128, 2, 256, 4, 1024, kind, scan_layers=False
  )
  apply, args = traced(config, 128, 16)
  compiled = jax.jit(apply).lower(*args).compile()
  counted = compiled.cost_analysis()["flops"]
  ours = forward(config, 128, 16)
  assert ours <= counted <= ours * (1 + 12 / 128)


def compiled_flops(order, sharing, kind, n, k, m, memory_m):
  module = attention.LinformerSelfAttention(
    HEADS, n, k, sharing, kind, order=order
  )
  x = jax.ShapeDtypeStruct((1, n, m), jnp.float32)
  memory = jax.ShapeDtypeStruct((1, n, memory_m), jnp.float32)
  variables = jax.eval_shape(module.init, KEY, x, memory)
  compiled = jax.jit(module.apply).lower(variables, x, memory).compile()
  return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize(
  ("sharing", "kind", "n", "k", "m", "memory_m"),
  [
    ("none", "linear", 64, 32, 32, 32),  # one E a head: after is cheaper
    ("key_value", "linear", 64, 64, 32, 32),
    ("headwise", "linear", 64, 60, 16, 128),  # wide memory: after
    ("none", "mean_pool", 64, 32, 32, 32),  # pooling costs no product
  ],
)
def test_auto_is_the_cheaper_order(sharing, kind, n, k, m, memory_m):
  sizes = (sharing, kind, n, k, m, memory_m)
  orders = order_lib.ORDERS
  costs = {order: compiled_flops(order, *sizes) for order in orders}
  cheaper = min(("before", "after"), key=costs.get)
  assert costs["before"] != costs["after"]
  assert costs["auto"] == costs[cheaper]
  if kind == "linear":
    sizes = (sharing, n, k, m, HEADS, memory_m)
    assert order_lib.cheaper(*sizes) == cheaper

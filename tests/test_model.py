"""The encoder and its head: sizes, loops over layers, dropout, dtypes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.models.inputs import tokens as inputs
from tests import arrays

KEY = jax.random.key(0)
N, V, B = 12, 29, 2
KINDS = [
  attention.LinformerConfig(projected_length=4),
  attention.SoftmaxConfig(),
  attention.LocalConfig(window=2),
  attention.LinearConfig(),
  attention.AdaMRAConfig(ratios=(1, 4)),
  attention.NystromConfig(num_landmarks=4, kernel_size=3),
  attention.PerformerConfig(num_features=12),
  attention.CosformerConfig(),
]
TINY = models.ModelConfig(V, N, 3, 8, 2, 16, KINDS[0])
BASE = models.ModelConfig(
  vocab_size=50_000,
  max_length=512,
  num_layers=12,
  embed_dim=768,
  num_heads=12,
  mlp_dim=3072,
  attention=attention.LinformerConfig(projected_length=128),
  position_offset=2,
)


def replace(config=TINY, **fields):
  return dataclasses.replace(config, **fields)


def draw_tokens(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, V, shape)


def shapes_of(config, module=models.MaskedLM):
  tokens = jax.ShapeDtypeStruct((1, config.max_length), jnp.int32)
  return jax.eval_shape(module(config).init, KEY, tokens)


def filled(config, module=models.MaskedLM):
  return arrays.filled(module(config), draw_tokens(1, N))


# The sums that one output went through: five of a layer's attention, two of
# its MLP, two layer norms, in three layers, and the head.
TERMS = 3 * (8 + 12 + 4 + 4 + 8 + 8 + 16 + 2 * 8) + 3 * 8


def size(**changes):
  return models.num_parameters(shapes_of(replace(BASE, **changes))["params"])


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize(
  "scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_sizes_of_the_paper(scan_layers, norm_position):
  """The model whose size the authors' code logs, and RoBERTa-base."""
  fields = {"scan_layers": scan_layers, "norm_position": norm_position}
  assert size(**fields) == 126_065_744
  fields |= {"attention": attention.SoftmaxConfig(), "vocab_size": 50_265}
  assert size(**fields) == 124_696_665


@pytest.mark.parametrize(
  "scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_sizes_of_the_projections(scan_layers):
  def projected(**fields):
    kind = attention.LinformerConfig(projected_length=128, **fields)
    return size(attention=kind, scan_layers=scan_layers)

  softmax = size(attention=attention.SoftmaxConfig(), scan_layers=scan_layers)
  assert softmax == 124_492_880
  added = {
    "none": 18_874_368,
    "headwise": 1_572_864,
    "key_value": 786_432,
    "layerwise": 65_536,
  }
  for sharing, count in added.items():
    assert projected(sharing=sharing) - softmax == count
  for kind in ("mean_pool", "max_pool", "random"):
    assert projected(projection=kind) == softmax
  # Two kernels of W x D x D a layer, W = 512 / 128.
  kernels = projected(projection="convolution") - softmax
  assert kernels == 12 * 2 * 4 * 64 * 64


def test_logits_at_positions_are_those_of_all_gathered():
  variables, tokens = filled(TINY), draw_tokens(B, N)
  positions = np.array([[0, 5, 5], [11, 3, 0]])
  module = models.MaskedLM(TINY)
  some = jax.jit(module.apply)(variables, tokens, None, positions)
  every = jax.jit(module.apply)(variables, tokens)
  want = np.take_along_axis(np.asarray(every), positions[..., None], 1)
  arrays.close(some, want, TERMS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
  "norm_position", ["post", pytest.param("pre", marks=pytest.mark.slow)]
)
def test_ids_under_the_mask_do_not_matter(norm_position, kind):
  """Not even ids out of range; and a short input equals it alone."""
  config = replace(norm_position=norm_position, attention=kind)
  variables, tokens = filled(config), draw_tokens(B, N)
  mask = np.arange(N) < np.array([[7], [0]])  # row 1 is wholly padded
  module = models.MaskedLM(config)

  @jax.jit
  def run(variables, tokens):
    def loss(variables):
      logits = module.apply(variables, tokens, mask)
      return jnp.sum(jnp.where(mask[..., None], jnp.sin(logits), 0)), logits

    return jax.grad(loss, has_aux=True)(variables)

  gradients, logits = run(variables, tokens)
  assert np.all(np.isfinite(logits))
  for ids in (V, 10**6, -(10**6)):
    other = run(variables, np.where(mask, tokens, ids))
    np.testing.assert_array_equal(other[1][mask], logits[mask])
    jax.tree.map(np.testing.assert_array_equal, other[0], gradients)
  alone = jax.jit(module.apply)(variables, tokens[:1, :7])
  arrays.close(logits[:1, :7], alone, TERMS)


def test_longer_than_max_length():
  for module in (models.TokenEncoder, models.MaskedLM):
    with pytest.raises(ValueError, match="13 tokens.*max_length 12"):
      module(TINY).init(KEY, draw_tokens(1, N + 1))


def test_dropout_is_by_key_and_keeps_its_rate():
  """A pre-norm layer without an MLP is x + dropout(attention)."""
  rate, width = 0.25, 32
  config = replace(
    dropout_rate=rate, embed_dim=width, norm_position="pre", num_layers=1
  )
  x = np.random.default_rng(0).standard_normal((16, N, width)).astype("f4")
  block = models.Block(config, config.layers[0])
  params = jax.jit(block.init)(KEY, x)["params"]
  params["mlp_out"] = jax.tree.map(jnp.zeros_like, params["mlp_out"])
  # The difference of x is exact only where x is small: let it be nothing.
  params["attention"]["out"]["bias"] = jnp.ones(width)

  @jax.jit
  def run(key):
    return block.apply(
      {"params": params}, x * 0, deterministic=False, rngs={"dropout": key}
    )

  first, again, other = (np.asarray(run(jax.random.key(i))) for i in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  still = np.asarray(block.apply({"params": params}, x * 0))
  kept = first != 0
  assert np.all(still != 0)
  np.testing.assert_allclose(
    first[kept], still[kept] / (1 - rate), rtol=(width + 12) * arrays.EPS
  )
  error = np.sqrt(rate * (1 - rate) / first.size)
  assert abs(kept.mean() - (1 - rate)) < 5 * error


@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_layer_drops_by_its_own_key(scan_layers):
  """Two layers that add one to what they keep: sums of 0, 1 and 2 of it.

  With the same entries dropped in both layers there would be no 1.
  """
  config = replace(
    dropout_rate=0.5,
    num_layers=2,
    embed_dim=32,
    norm_position="pre",
    scan_layers=scan_layers,
    remat=True,
  )

  def fill(path, leaf):
    names = [key.key for key in path]
    one = names[-2:] == ["out", "bias"] or names[-2:] == ["norm", "scale"]
    return jnp.full(leaf.shape, float(one))

  variables = jax.tree_util.tree_map_with_path(
    fill, shapes_of(config, models.TokenEncoder)
  )
  tokens, rngs = draw_tokens(B, N), {"dropout": jax.random.key(1)}
  module = models.TokenEncoder(config)
  out = module.apply(variables, tokens, deterministic=False, rngs=rngs)
  for row in np.asarray(out).reshape(-1, 32):  # a norm keeps what is equal
    assert len(np.unique(row)) == 3
  still = np.asarray(module.apply(variables, tokens))
  np.testing.assert_array_equal(still, 0)  # the norm of equal entries


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bfloat16(kind):
  """float32 parameters and logits around bfloat16 layers."""
  config = replace(attention=kind, dtype="bfloat16")
  variables, tokens = filled(config), draw_tokens(B, N)
  assert {w.dtype.name for w in jax.tree.leaves(shapes_of(config))} == {
    "float32"
  }
  apply = jax.jit(models.MaskedLM(config).apply)
  logits = apply(variables, tokens)
  assert logits.dtype == jnp.float32
  exact = jax.jit(models.MaskedLM(replace(config, dtype="float32")).apply)
  # Each of some 30 steps rounds to 8 bits; roundings add like a random walk.
  want = np.asarray(exact(variables, tokens))
  scale = np.max(abs(want))
  error = np.max(abs(logits - want))
  assert 2**-16 * scale < error < 30**0.5 * 4 * 2**-8 * scale
  # The product itself is float32, and not only its sum with the bias.
  embed = inputs.Tokens(config)
  params = {"params": variables["params"]["encoder"]["embed"]}
  rows = jnp.ones((1, 1, 8), jnp.bfloat16)
  scores = embed.apply(params, rows, method="attend")
  assert scores.dtype == jnp.float32
  assert np.any(scores != scores.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_rows_between_layers_are_bfloat16(norm_position):
  config = replace(norm_position=norm_position, dtype="bfloat16")
  module, tokens = models.TokenEncoder(config), draw_tokens(B, N)
  variables = shapes_of(config, models.TokenEncoder)
  jaxpr = jax.make_jaxpr(module.apply)(variables, tokens)
  (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
  carried = loop.outvars[0].aval
  assert (carried.shape, carried.dtype) == ((B, N, 8), jnp.bfloat16)
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16


def test_random_projections_are_constants_of_their_own():
  kind = attention.LinformerConfig(
    projected_length=4, projection="random", sharing="none"
  )
  config = replace(attention=kind)
  variables = jax.jit(models.MaskedLM(config).init)(KEY, draw_tokens(1, N))
  assert set(variables) == {"params", "constants"}
  kernels = jax.tree.leaves(variables["constants"])
  assert [k.shape for k in kernels] == [(3, 2, 4, N)] * 2  # E, F by layer, head
  rows = np.concatenate([np.reshape(k, (-1, 4 * N)) for k in kernels])
  assert len(np.unique(rows, axis=0)) == len(rows) == 12
  names = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
  assert not any("projection" in str(path) for path, _ in names)


def test_sinusoidal_positions_have_the_spread_of_the_tokens():
  config = replace(position_init="sinusoidal", embed_dim=64, position_offset=2)
  init = jax.jit(inputs.Tokens(config).init)
  params = init(KEY, draw_tokens(1, N))["params"]
  table = np.asarray(params["positions"])
  assert table.shape == (N + 2, 64)
  # sin^2 + cos^2 = 1 in every pair: the mean square is exactly std^2.
  np.testing.assert_allclose(
    np.mean(table**2, axis=1), 0.02**2, rtol=4 * 64 * arrays.EPS
  )

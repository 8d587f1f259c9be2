"""Layers as a loop, one after another, and computed again: one function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from tests import arrays

N, V, B = 12, 29, 2
LENGTHS = attention.LinformerConfig(projected_lengths=(4, 4, 2), sharing="none")
LAYERWISE = attention.LinformerConfig(projected_length=4, sharing="layerwise")
MIXED = (LAYERWISE, attention.LocalConfig(window=2), LAYERWISE)
PLAIN = attention.LinformerConfig(projected_length=4)
TINY = models.ModelConfig(V, N, 2, 8, 2, 16, PLAIN)
TOKENS = np.random.default_rng(0).integers(0, V, (B, N))
# The sums that one output went through: five of a layer's attention, two of
# its MLP, two layer norms, in three layers, and the head; and twice that and
# the mean over the positions for a gradient.
TERMS = 3 * (8 + 12 + 4 + 4 + 8 + 8 + 16 + 2 * 8) + 3 * 8
GRADIENT_TERMS = 2 * TERMS + 2 * B * N


def replace(**fields):
  return dataclasses.replace(TINY, **fields)


def shapes_of(config):
  init = models.MaskedLM(config).init
  return jax.eval_shape(init, jax.random.key(0), TOKENS)


def filled(config):
  return arrays.filled(models.MaskedLM(config), TOKENS)


def unrolled(tree):
  """Variables of scanned layers as those of layers one after another."""
  result = {}
  for collection, variables in tree.items():
    encoder, i = {}, 0
    for name, value in variables["encoder"].items():
      if not name.startswith("layers_"):
        encoder[name] = value
        continue
      depth = jax.tree.leaves(value)[0].shape[0]
      for j in range(depth):
        encoder[f"layer_{i + j}"] = jax.tree.map(lambda w, j=j: w[j], value)
      i += depth
    result[collection] = {**variables, "encoder": encoder}
  return result


@pytest.mark.parametrize(
  "fields",
  [
    {"attention": MIXED, "num_layers": 3},  # three loops
    pytest.param(  # two loops
      {"attention": LENGTHS, "num_layers": 3}, marks=pytest.mark.slow
    ),
    pytest.param({"attention": LAYERWISE}, marks=pytest.mark.slow),
    pytest.param(
      {
        "attention": attention.LinformerConfig(
          projected_length=4, projection="random"
        ),
        "norm_position": "pre",
      },
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {"attention": attention.SoftmaxConfig()}, marks=pytest.mark.slow
    ),
  ],
)
def test_scan_equals_layers_one_after_another(fields):
  scanned = replace(**fields)
  plain = dataclasses.replace(scanned, scan_layers=False)
  variables = filled(scanned)
  mask = np.arange(N) < np.array([[N], [7]])

  def run(config, variables):
    def loss(variables):
      logits = models.MaskedLM(config).apply(variables, TOKENS, mask)
      return jnp.mean(logits[mask] ** 2), logits

    return jax.jit(jax.grad(loss, has_aux=True))(variables)

  gradients, logits = run(scanned, variables)
  plain_gradients, plain_logits = run(plain, unrolled(variables))
  arrays.close(logits, plain_logits, TERMS)
  flat = unrolled(gradients)
  assert jax.tree.structure(flat) == jax.tree.structure(plain_gradients)
  jax.tree.map(
    lambda a, b: arrays.close(a, b, GRADIENT_TERMS), flat, plain_gradients
  )


def test_layers_of_one_projected_length_share_a_loop():
  config = replace(attention=LENGTHS, num_layers=3)
  params = shapes_of(config)["params"]["encoder"]
  lengths = {
    name: layers["block"]["attention"]["key_projection"]["kernel"].shape
    for name, layers in params.items()
    if name.startswith("layers_")
  }
  assert lengths == {"layers_0": (2, 2, 4, N), "layers_1": (1, 2, 2, N)}


@pytest.mark.parametrize("remat", [False, True])
def test_program_of_a_loop_does_not_grow_with_depth(remat):
  def lines(depth, scan_layers):
    config = replace(num_layers=depth, scan_layers=scan_layers, remat=remat)

    def loss(params):
      return jnp.sum(models.MaskedLM(config).apply({"params": params}, TOKENS))

    gradient = jax.jit(jax.grad(loss))
    params = shapes_of(config)["params"]
    return len(gradient.lower(params).as_text().splitlines())

  assert lines(6, True) == lines(2, True)
  assert lines(3, False) > lines(2, False)


@pytest.mark.parametrize(
  "scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_remat_computes_again_and_changes_no_gradient(scan_layers):
  def gradient(remat):
    config = replace(scan_layers=scan_layers, remat=remat)

    def loss(variables):
      return jnp.mean(models.MaskedLM(config).apply(variables, TOKENS) ** 2)

    return jax.jit(jax.grad(loss))

  variables = filled(replace(scan_layers=scan_layers))
  again, once = gradient(True), gradient(False)
  jax.tree.map(
    lambda a, b: arrays.close(a, b, GRADIENT_TERMS),
    again(variables),
    once(variables),
  )
  texts = [g.lower(variables).as_text() for g in (again, once)]
  products = [text.count("dot_general") for text in texts]
  assert products[0] > products[1]
  # Without a loop only a barrier keeps a compiler from undoing the remat.
  assert ("optimization_barrier" in texts[0]) == (not scan_layers)


def test_remat_in_blocks_keeps_one_block_of_a_layer():
  """Of one layer, which computed again as a whole would save nothing."""
  length = 1024
  tokens = np.random.default_rng(0).integers(0, V, (1, length))
  fields = dict(max_length=length, num_layers=1, query_block=32)
  variables = arrays.filled(models.TokenEncoder(replace(**fields)), tokens)

  def compiled(remat):
    encoder = models.TokenEncoder(replace(remat=remat, **fields))

    def loss(variables):
      return jnp.mean(encoder.apply(variables, tokens) ** 2)

    return jax.jit(jax.grad(loss)).lower(variables).compile()

  again, once = compiled(True), compiled(False)
  sizes = [x.memory_analysis().temp_size_in_bytes for x in (again, once)]
  assert sizes[0] < 0.5 * sizes[1]
  jax.tree.map(
    lambda a, b: arrays.close(a, b, GRADIENT_TERMS, 2 * length),
    again(variables),
    once(variables),
  )

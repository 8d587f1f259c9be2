"""Rotary positions: rotations by angles, and products of differences alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, generate, models
from linformer_jax.attention import rotary
from linformer_jax.models import bert
from tests import arrays, test_cache

B, N, M, H = 2, 12, 16, 2
D = M // H
KINDS = {
  "softmax": attention.SoftmaxConfig(),
  "local": attention.LocalConfig(window=3),
  "causal_linformer": attention.CausalLinformerConfig(
    block_length=4, projected_length=2
  ),
}


def test_pairs_are_complex_numbers_that_turn():
  x = arrays.draw(B, N, H, D)
  pairs = x[..., : D // 2] + 1j * x[..., D // 2 :]
  angles = (5 + np.arange(N))[:, None] / 10_000 ** (2 * np.arange(D // 2) / D)
  turned = pairs * np.exp(1j * angles)[:, None]
  want = np.concatenate([turned.real, turned.imag], axis=-1)
  np.testing.assert_allclose(rotary.rotate(x, 5), want, rtol=0, atol=1e-5)
  rows = rotary.rotate(x, np.array([5, 0]))
  np.testing.assert_array_equal(rows[0], rotary.rotate(x, 5)[0])
  np.testing.assert_array_equal(rows[1], rotary.rotate(x)[1])


def test_products_depend_on_the_distance_alone():
  q, k = arrays.draw(B, N, H, D), arrays.draw(B, N, H, D, seed=1)

  def products(start):
    turned = rotary.rotate(q, start), rotary.rotate(k, start)
    return jnp.einsum("bnhd,bmhd->bhnm", *turned)

  arrays.close(products(1_000), products(0), 1_000)
  assert abs(products(0) - jnp.einsum("bnhd,bmhd->bhnm", q, k)).max() > 1


@pytest.mark.parametrize("name", KINDS)
def test_rows_know_their_order(name):
  """Of equal rows but two, attention sees which of the two comes first."""
  sizes = attention.Sizes(M, H, N, causal=True, rotary=True)
  module = KINDS[name].module(sizes)
  x = np.ones((1, N, M), np.float32)
  x[0, 1], x[0, 2] = arrays.draw(2, M)
  variables = arrays.filled(module, x)
  swapped = x.copy()
  swapped[0, [1, 2]] = x[0, [2, 1]]
  last = [module.apply(variables, y)[0, 3] for y in (x, swapped)]
  assert abs(last[0] - last[1]).max() > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_a_cache_gives_the_whole_forward_pass(name):
  config = models.ModelConfig(
    9, N, 2, M, H, 8, KINDS[name], position_init="rotary"
  )
  model, tokens = models.CausalLM(config), np.arange(2 * N).reshape(2, N) % 9
  variables = arrays.filled(model, tokens)
  assert "positions" not in variables["params"]["encoder"]["embed"]
  whole = model.apply(variables, tokens)
  prompts = np.array([7, 2])
  extend = jax.jit(lambda *a: model.apply(variables, *a, method="extend"))
  step = models.extend_block(config) or 4
  logits, cache = test_cache.prefill(extend, model, tokens, prompts, step)
  lengths = N, M, D, M, 8, M, N
  arrays.close(logits, test_cache.last(whole, prompts), *lengths)
  for _ in range(4):
    rows = np.take_along_axis(tokens, prompts[:, None], 1)
    logits, cache = extend(rows, cache, prompts, np.ones(2, int))
    prompts += 1
    arrays.close(logits, test_cache.last(whole, prompts), *lengths)
  # Nothing limits the length, as there is no table.
  writer = generate.Generator(model, variables)
  assert len(list(writer.tokens([tokens[0]], 2 * N))) == 2 * N


def test_no_export_claims_to_be_roberta():
  fields = dict(attention=KINDS["softmax"], position_offset=2)
  config = models.ModelConfig(9, N, 1, M, H, 8, **fields)
  assert bert.is_roberta(config)
  config = dataclasses.replace(config, position_init="rotary")
  assert not bert.is_roberta(config)


def test_what_does_not_rotate():
  with pytest.raises(ValueError, match="'linear' does not rotate queries"):
    models.ModelConfig(
      9, N, 1, M, H, 8, attention.LinearConfig(), position_init="rotary"
    )
  with pytest.raises(ValueError, match="head_dim 3 is odd"):
    models.ModelConfig(
      9, N, 1, 6, 2, 8, KINDS["softmax"], position_init="rotary"
    )
  sizes = attention.Sizes(M, H, N, rotary=True)
  module = KINDS["softmax"].module(sizes)
  x = arrays.draw(B, N, M)
  with pytest.raises(ValueError, match="rotary positions are for attention to"):
    module.init(jax.random.key(0), x, x)

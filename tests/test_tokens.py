"""Rows from tokens: positions, segments, and logits tied to the embeddings."""

import dataclasses

import jax
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.models.inputs import tokens as inputs
from tests import arrays

V, N, M = 30, 12, 8
CONFIG = models.ModelConfig(
  *(V, N, 1, M, 2, 8, attention.SoftmaxConfig(), 2), position_offset=2
)
TOKENS = np.random.default_rng(0).integers(0, V, (2, N - 3))
SEGMENTS = np.arange(N - 3)[None].repeat(2, 0) % 2


def test_rows_are_the_sum_of_three_tables():
  module = inputs.Tokens(CONFIG)
  variables = arrays.filled(module, TOKENS)
  params = variables["params"]
  want = params["tokens"]["embedding"][TOKENS]
  want = want + params["positions"][2 : N - 1]
  want = want + params["segments"]["embedding"][SEGMENTS]
  got = module.apply(variables, TOKENS, SEGMENTS)
  np.testing.assert_allclose(got, want, rtol=0, atol=8 * arrays.EPS)
  first = module.apply(variables, TOKENS, 0 * SEGMENTS)
  np.testing.assert_array_equal(module.apply(variables, TOKENS), first)


def test_logits_are_products_with_the_token_embeddings():
  module = inputs.Tokens(CONFIG)
  variables = arrays.filled(module, TOKENS)
  x = arrays.draw(2, 3, M)
  got = module.apply(variables, x, method="attend")
  want = x @ variables["params"]["tokens"]["embedding"].T
  arrays.close(got, want, M)


def test_inputs_that_do_not_fit():
  module = inputs.Tokens(CONFIG)
  variables = arrays.filled(module, TOKENS)
  with pytest.raises(ValueError, match=f"{N + 1} tokens.*max_length {N}"):
    module.apply(variables, np.zeros((1, N + 1), int))
  plain = inputs.Tokens(dataclasses.replace(CONFIG, num_segments=0))
  with pytest.raises(ValueError, match="num_segments of 2 or more"):
    plain.apply(arrays.filled(plain, TOKENS), TOKENS, SEGMENTS)
  encoder = models.Encoder(CONFIG)
  with pytest.raises(ValueError, match="TokenEncoder takes tokens"):
    encoder.init(jax.random.key(0), TOKENS)

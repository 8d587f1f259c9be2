"""cosFormer: relu features, weighted by the cosine of the distance."""

import jax
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import cosformer
from tests import arrays, costs

B, N, M, H, L = 2, 21, 16, 2, 30
D = M // H
REAL = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])


def distances():
  """i - j [N, N]."""
  return np.arange(N)[:, None] - np.arange(N)


def by_definition(params, x, real, causal):
  """An N x N matrix of reweighted products, in float64 (equation 10)."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = np.where(real[..., None], x, 0)

  def heads(name):
    rows = x @ params[name]["kernel"] + params[name]["bias"]
    return rows.reshape(B, N, H, D)

  q, k = np.maximum(heads("query"), 0), np.maximum(heads("key"), 0)
  weights = np.einsum("bnhd,bjhd->bhnj", q, k) * real[:, None, None]
  weights *= np.cos(np.pi / 2 * distances() / L)
  weights = np.tril(weights) if causal else weights
  assert np.all(weights >= 0)
  total = weights.sum(-1, keepdims=True)
  weights = np.divide(weights, total, where=total > 0, out=0 * weights)
  out = np.einsum("bhnj,bjhd->bnhd", weights, heads("value")).reshape(B, N, M)
  return out @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize("causal", [False, True])
def test_cosformer_attention_is_its_definition(causal):
  module = attention.CosformerSelfAttention(H, L, causal=causal)
  x = arrays.draw(B, N, M)
  variables = arrays.filled(module, x)
  # A row whose queries have no positive entry has no weights.
  bias = variables["params"]["query"]["bias"]
  x[0, 3] = -np.linalg.pinv(variables["params"]["query"]["kernel"]).T @ (
    bias + 1
  )
  got = jax.jit(module.apply)(variables, x, None, REAL)
  want = by_definition(variables["params"], x, REAL, causal)
  np.testing.assert_array_equal(got[0, 3], variables["params"]["out"]["bias"])
  # A sum of weights may be smaller than what its parts were rounded to.
  arrays.close(got, want, M, 2 * D, N, 2 * D, N, M)


def test_products_are_cosines_of_the_distance_and_positive_up_to_it():
  ones = np.ones((1, L + 1, 1, 1), np.float32)
  phi = np.asarray(cosformer.feature_map(ones, 0, L), np.float64)[0, :, 0]
  rows = np.arange(L + 1)
  want = np.cos(np.pi / 2 * (rows[:, None] - rows) / L)
  arrays.close(phi @ phi.T, want, 4)  # of an angle, a cosine and a product
  inside = abs(rows[:, None] - rows) < L
  assert np.all((phi @ phi.T)[inside] > 0)
  later = np.asarray(cosformer.feature_map(ones[:, 5:], 5, L))[0, :, 0]
  np.testing.assert_array_equal(later, phi[5:].astype(np.float32))


def test_what_it_does_not_go_with():
  module, x = attention.CosformerSelfAttention(H, L), arrays.draw(1, L + 1, M)
  with pytest.raises(ValueError, match="have no distance from a query"):
    module.init(jax.random.key(0), x[:, :4], x[:, :4])
  with pytest.raises(ValueError, match=f"{L + 1} rows.*max_length {L}"):
    module.init(jax.random.key(0), x)


def test_it_has_the_parameters_of_softmax_attention():
  def count(kind):
    module = kind.module(attention.Sizes(M, H, N))
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, N, M)))
    return models.num_parameters(shapes["params"])

  assert count(attention.CosformerConfig()) == 4 * M * M + 4 * M


@pytest.mark.parametrize("causal", [False, True])
def test_costs_are_linear(causal):
  costs.assert_linear(attention.CosformerConfig(), causal)
  costs.assert_flops(attention.CosformerConfig(), causal)

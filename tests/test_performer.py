"""Performer: positive orthogonal random features of the softmax kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from linformer_jax import attention, models, optimizer
from linformer_jax.attention import performer
from tests import arrays, costs

B, N, M, H, F = 2, 21, 16, 2, 12
D = M // H
REAL = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])
DRAWS = 20_000


def by_definition(variables, x, real, causal):
  """phi(Q) phi(K)^T over its row sums, in float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
  params, w = params["params"], params["constants"]["directions"]["kernel"]

  def heads(name):
    rows = x @ params[name]["kernel"] + params[name]["bias"]
    return rows.reshape(B, N, H, D)

  def phi(x):
    x = x / D**0.25
    square = (x**2).sum(-1, keepdims=True)
    return np.exp(x @ w.T - square / 2) / np.sqrt(len(w))

  weights = np.einsum("bnhf,bjhf->bhnj", phi(heads("query")), phi(heads("key")))
  weights = weights * real[:, None, None]
  weights = np.tril(weights) if causal else weights
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum("bhnj,bjhd->bnhd", weights, heads("value")).reshape(B, N, M)
  return out @ params["out"]["kernel"] + params["out"]["bias"]


def case(causal=False):
  module = attention.PerformerSelfAttention(H, F, causal=causal)
  x = np.where(REAL[..., None], arrays.draw(B, N, M), 0)
  variables = arrays.filled(module, x)
  w = performer.draw_directions(jax.random.key(3), F, D)
  return module, variables | {"constants": {"directions": {"kernel": w}}}, x


@pytest.mark.parametrize("causal", [False, True])
def test_performer_attention_is_its_definition(causal):
  module, variables, x = case(causal)
  got = jax.jit(module.apply)(variables, x, None, REAL)
  want = by_definition(variables, x, REAL, causal)
  # An error e of an exponent, a sum of D products up to its size, is one of
  # e times the weight.
  arrays.close(got, want, M, 8 * D, F, N, F, N, M)


@functools.cache
def products():
  """Estimates of exp(q k^T / sqrt(D)) by draws of w, and the q and k."""
  scale = 0.2 * D**0.25
  q, k = scale * arrays.draw(2, 6, D)

  @jax.jit
  @jax.vmap
  def estimate(key):
    w = performer.draw_directions(key, D, D)
    x = jnp.stack([q, k])[:, :, None]  # [2, N, 1, D]
    return jnp.prod(jnp.exp(performer.exponents(x, w)), axis=0).sum((-2, -1))

  found = estimate(jax.random.split(jax.random.key(1), DRAWS))
  q, k = (x.astype(np.float64) / D**0.25 for x in (q, k))
  return np.asarray(found, np.float64), q, k


def test_products_of_features_are_the_softmax_kernel_on_average():
  found, q, k = products()
  error = found.mean(0) - np.exp(np.sum(q * k, axis=-1))
  assert np.all(abs(error) < 4 * found.std(0) / np.sqrt(DRAWS))


def test_orthogonal_directions_vary_less_than_independent_ones():
  """With D independent w, the variance is that of exp(w (q + k)) over D.

  E[exp(t w z)] = exp(t^2 |z|^2 / 2) for w from N(0, I).
  """
  found, q, k = products()
  z = np.sum((q + k) ** 2, axis=-1)
  scale = np.exp(-np.sum(q**2 + k**2, axis=-1))
  independent = scale * (np.exp(2 * z) - np.exp(z)) / D
  spread = (found - found.mean(0)) ** 2
  error = 4 * spread.std(0) / np.sqrt(DRAWS)
  assert np.all(spread.mean(0) < independent - error)


def test_directions_are_orthogonal_in_blocks_of_d():
  w = np.asarray(performer.draw_directions(jax.random.key(0), 2 * D + 3, D))
  assert w.shape == (2 * D + 3, D)
  for start in (0, D, 2 * D):
    block = w[start : start + D]
    gram = block @ block.T
    arrays.close(gram, np.diag(np.diag(gram)), D, D)
  norms = np.linalg.norm(w, axis=1)
  assert len(set(norms)) == len(norms)
  assert abs(w[:D] @ w[D : 2 * D].T).min() > 0


def test_large_rows_overflow_nothing_and_pass_no_gradient_to_padding():
  """Products up to exp(|w|^2 / 2), and keys that no feature is near."""
  for causal in (False, True):
    module, variables, x = case(causal)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(x, module=module, variables=variables):
      out = module.apply(variables, x, None, REAL)
      return jnp.sum(jnp.where(REAL[..., None], jnp.sin(out), 0)), out

    for scale in (10, 1000):
      (_, out), gradient = run(scale * x)
      assert np.all(np.isfinite(out)) and np.all(np.isfinite(gradient))
      assert np.all(gradient[~REAL] == 0)


def test_causal_attention_does_not_see_how_large_later_keys_are():
  module, variables, x = case(causal=True)
  run, row = jax.jit(module.apply), 5
  before = run(variables, x)
  larger = x.copy()  # the call above may still read x
  larger[:, row + 1 :] *= 10
  after = run(variables, larger)
  np.testing.assert_array_equal(after[:, : row + 1], before[:, : row + 1])
  assert np.any(after[:, row + 1 :] != before[:, row + 1 :])


def test_each_layer_draws_its_own_directions_once():
  config = models.ModelConfig(
    9, N, 3, M, H, 8, attention.PerformerConfig(num_features=F)
  )
  init = jax.jit(models.MaskedLM(config).init)
  tokens = np.zeros((1, N), np.int32)
  variables = init(jax.random.key(0), tokens)
  (w,) = jax.tree.leaves(variables["constants"])
  assert w.shape == (3, F, D) and len(np.unique(w)) == w.size
  again = init(jax.random.key(0), tokens)["constants"]
  np.testing.assert_array_equal(jax.tree.leaves(again)[0], w)
  softmax = models.ModelConfig(9, N, 3, M, H, 8, attention.SoftmaxConfig())
  want = jax.eval_shape(
    models.MaskedLM(softmax).init, jax.random.key(0), tokens
  )
  (path,) = traverse_util.flatten_dict(variables["constants"], sep="/")
  assert optimizer.is_projection(path)  # softmax weights may lack it
  assert models.num_parameters(variables["params"]) == models.num_parameters(
    want["params"]
  )


def test_what_it_does_not_go_with():
  with pytest.raises(ValueError, match="num_features 0 must be at least 1"):
    models.ModelConfig(
      9, N, 1, M, H, 8, attention.PerformerConfig(num_features=0)
    )
  module, variables, x = case(causal=True)
  with pytest.raises(ValueError, match="attention to itself"):
    module.apply(variables, x, x)


@pytest.mark.parametrize("causal", [False, True])
def test_costs_are_linear(causal):
  kind = attention.PerformerConfig(num_features=64)
  costs.assert_linear(kind, causal)
  costs.assert_flops(kind, causal)

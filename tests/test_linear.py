"""Linear attention: a kernel for the softmax, without an N x N matrix."""

import jax
import numpy as np
import pytest

from linformer_jax import attention
from tests import arrays

B, N, M, H = 2, 19, 16, 2
D = M // H


def phi(x):
  return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def test_linear_attention_is_its_definition():
  """Weights phi(q) phi(k)^T over their sum, as an N x N matrix in float64."""
  module = attention.LinearSelfAttention(H)
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N - 4, M, seed=1)
  mask = np.arange(N - 4) < np.array([[N - 4], [6]])
  variables = arrays.filled(module, x)
  params = jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float64), variables["params"]
  )
  rows = np.where(mask[..., None], memory, 0)

  def heads(name, rows):
    out = rows @ params[name]["kernel"] + params[name]["bias"]
    return out.reshape(B, -1, H, D)

  q, k = phi(heads("query", x)), phi(heads("key", rows))
  weights = np.einsum("bnhd,bjhd->bhnj", q, k) * mask[:, None, None]
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum("bhnj,bjhd->bnhd", weights, heads("value", rows))
  want = out.reshape(B, N, M) @ params["out"]["kernel"] + params["out"]["bias"]
  got = module.apply(variables, x, memory, mask)
  arrays.close(got, want, M, D, N, D, M)


def test_the_order_of_the_memory_does_not_matter():
  module = attention.LinearSelfAttention(H)
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  variables = arrays.filled(module, x)
  order = np.random.default_rng(0).permutation(N)
  got = module.apply(variables, x, memory[:, order])
  arrays.close(got, module.apply(variables, x, memory), M, D, N, D, M)


def test_a_memory_of_padding_gives_the_bias():
  module = attention.LinearSelfAttention(H)
  x = arrays.draw(B, N, M)
  variables = arrays.filled(module, x)
  out = module.apply(variables, x, x, np.zeros((B, N), bool))
  bias = variables["params"]["out"]["bias"]
  np.testing.assert_array_equal(out, np.broadcast_to(bias, out.shape))


def test_causal_attention_is_that_of_the_rows_so_far():
  """Each row is the last row of attention to its prefix."""
  x = arrays.draw(B, N, M)
  module = attention.LinearSelfAttention(H)
  causal = attention.LinearSelfAttention(H, causal=True)
  variables = arrays.filled(module, x)
  mask = np.arange(N) % 4 > 0  # the first row sees nothing

  @jax.jit
  def last(x, real):
    return module.apply(variables, x, x, real)

  got = jax.jit(causal.apply)(variables, x, None, np.stack([mask] * B))
  for row in range(N):
    real = np.stack([mask & (np.arange(N) <= row)] * B)
    if mask[row]:
      arrays.close(got[:, row], last(x, real)[:, row], M, D, N, D, M)
  with pytest.raises(ValueError, match="attention to itself"):
    causal.apply(variables, x, x)


def test_it_has_no_weights_to_drop():
  with pytest.raises(TypeError, match="dropout_rate"):
    attention.LinearSelfAttention(H, dropout_rate=0.1)

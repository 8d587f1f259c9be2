"""Sums over rows in place of an N x N matrix of weights."""

import jax
import numpy as np
import pytest

from linformer_jax import attention
from linformer_jax.attention.ops import kernelized
from tests import arrays, costs

B, N, H, F, D = 2, 53, 2, 5, 4
C = kernelized.chunk_length(D)
REAL = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])


def inputs():
  """Features, a third of them zero, and values."""
  q, k, v = (arrays.draw(B, N, H, d, seed=i) for i, d in enumerate((F, F, D)))
  return np.maximum(q + 0.5, 0), np.maximum(k + 0.5, 0), v


def by_definition(q, k, v, real, causal):
  """Weights over their sum, as an N x N matrix in float64."""
  weights = np.einsum("bnhf,bjhf->bhnj", q.astype(float), k)
  weights = weights * real[:, None, None]
  weights = np.tril(weights) if causal else weights
  total = weights.sum(-1, keepdims=True)
  weights = np.divide(weights, total, where=total > 0, out=0 * weights)
  return np.einsum("bhnj,bjhd->bnhd", weights, v)


def run(q, k, v, real, causal):
  summary = kernelized.summarise(k, v, real, causal)
  return kernelized.attend(q, summary, causal=causal)


compiled = jax.jit(run, static_argnums=4)


@pytest.mark.parametrize("causal", [False, True])
def test_sums_are_the_matrix_of_weights(causal):
  """Four chunks, the last of them short; a query without weights gets zero."""
  q, k, v = inputs()
  q[0, 7] = 0
  got = compiled(q, k, v, REAL, causal)
  arrays.close(got, by_definition(q, k, v, REAL, causal), F, N, F, N)
  assert np.all(got[0, 7] == 0)


def test_a_block_of_queries_may_begin_anywhere():
  q, k, v = inputs()
  whole = by_definition(q, k, v, REAL, True)
  summary = kernelized.summarise(k, v, REAL, causal=True)
  count = C + 2  # two chunks, from any row of a stored one

  @jax.jit
  def block(start):
    rows = jax.lax.dynamic_slice_in_dim(q, start, count, axis=1)
    return kernelized.attend(rows, summary, start, causal=True)

  for start in (0, 1, C - 1, C, 2 * C - 2, N - count):
    want = whole[:, start : start + count]
    arrays.close(block(start), want, F, N, F, N)


def test_later_rows_change_no_bit():
  """However large they are: they are in no sum that is subtracted later."""
  q, k, v = inputs()
  row = C + 3
  before = jax.block_until_ready(compiled(q, k, v, REAL, True))
  for x in (q, k, v):
    x[:, row + 1 :] *= 1e12
  after = compiled(q, k, v, REAL, True)
  rows = slice(0, row + 1)
  np.testing.assert_array_equal(after[:, rows], before[:, rows])
  want = by_definition(q, k, v, REAL, True)
  scale = abs(want).max(axis=(0, 2, 3), keepdims=True).clip(1)
  arrays.close(after / scale, want / scale, F, N, F, N)


@pytest.mark.parametrize("causal", [False, True])
def test_costs_of_linear_attention_are_linear(causal):
  costs.assert_linear(attention.LinearConfig(), causal)
  costs.assert_flops(attention.LinearConfig(), causal)

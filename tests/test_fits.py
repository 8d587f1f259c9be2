"""Fitted E and F are the best of their kind, and padding does not enter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax.models import fits

B, N, K, D = 4, 12, 4, 5


@pytest.fixture(scope="module")
def head():
  """q, k, v and a mask; values of structure, so that there is much to fit."""
  keys = jax.random.split(jax.random.key(0), 3)
  q, k, v = (2 * jax.random.normal(key, (B, N, D)) for key in keys)
  mask = jnp.arange(N) < jnp.array([N, N - 1, 7, 3])[:, None]
  return q, *(jnp.where(mask[..., None], x, 0) for x in (k, v)), mask


@pytest.fixture(scope="module")
def pool():
  return jnp.repeat(jnp.eye(K), N // K, axis=1) * K / N


def test_the_identity_has_no_error(head):
  q, k, v, _ = head
  assert fits.error(jnp.eye(N), jnp.eye(N), q, k, v) < 1e-8


def test_no_step_increases_the_error(head, pool):
  """To float32: an error of 1e-6 of the exact output's sum of squares."""
  found = [
    float(fits.error(pool, fits.fit_values(pool, pool, *head, steps=i), *head))
    for i in (0, 1, 3, 10, 40)
  ]
  size = float(fits.error(pool, 0 * pool, *head))
  assert found[0] == pytest.approx(float(fits.error(pool, pool, *head)))
  assert np.all(np.diff(found) <= 1e-6 * size)
  assert found[-1] < 0.8 * found[0]


def test_it_is_the_least_squares_solution(head, pool):
  q, k, v, mask = (np.asarray(x, np.float64) for x in head)
  p = np.asarray(fits.weights(head[0], pool @ head[1], head[3]), np.float64)
  exact = np.asarray(fits.weights(head[0], head[1], head[3], head[3]) @ head[2])
  # vec(P F V) = (P kron V^T) vec(F), row by row.
  matrix = np.concatenate([np.kron(p[b], v[b].T) for b in range(B)])
  best, *_ = np.linalg.lstsq(matrix, exact.reshape(-1), rcond=None)
  least = np.sum((matrix @ best - exact.reshape(-1)) ** 2)
  fitted = fits.fit_values(pool, pool, *head, steps=400)
  assert float(fits.error(pool, fitted, *head)) < least + 1e-3 * np.sum(
    exact**2
  )


def test_padding_is_not_fitted(head, pool):
  q, *rest, mask = head
  noise = jax.random.normal(jax.random.key(1), q.shape)
  other = jnp.where(mask[..., None], q, noise)
  for a, b in (
    (
      fits.fit_values(pool, pool, q, *rest, mask, steps=3),
      fits.fit_values(pool, pool, other, *rest, mask, steps=3),
    ),
    (
      fits.error(pool, pool, q, *rest, mask),
      fits.error(pool, pool, other, *rest, mask),
    ),
  ):
    np.testing.assert_array_equal(a, b)
  found = fits.weights(q, rest[0], mask, mask)
  assert np.all(found[~mask] == 0)
  assert np.all(found[:, :, ~mask[3]][3] == 0)


def test_directions_span_a_matrix_of_low_rank():
  a, b = (np.random.default_rng(i).random((N, K)) for i in range(2))
  p = (a @ b.T).astype(np.float32)
  rows = np.asarray(fits.directions(jnp.asarray(p), K))
  scale = (K / N) ** 0.5
  np.testing.assert_allclose(
    rows @ rows.T, scale**2 * np.eye(K), rtol=0, atol=1e-5
  )
  assert np.all(rows.sum(1) >= 0)
  kept = p @ rows.T @ rows / scale**2  # P, projected on them
  np.testing.assert_allclose(kept, p, rtol=0, atol=1e-4)


def test_ranks_count_the_energy():
  values = np.array([3.0, 2, 1, 0.1])  # shares of energy 0.64, 0.93, 1, 1
  q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
  matrix = jnp.asarray(q * values @ q.T, jnp.float32)
  found = [int(fits.ranks(matrix, share)) for share in (0.6, 0.9, 0.95)]
  assert found == [1, 2, 3]
  assert int(fits.ranks(jnp.eye(10), 0.9)) == 9

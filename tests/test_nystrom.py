"""Nystrom attention: softmax attention through means of rows."""

import jax
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import nystrom
from linformer_jax.parallel import sharding
from tests import arrays, costs

B, N, M, H, K, WIDTH = 2, 23, 16, 2, 4, 5
D = M // H
REAL = np.stack([np.ones(N, bool), np.arange(N) % 5 < 3])


def softmax(scores):
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def means(x, count):
  """Of rows of rank [s n / K, (s + 1) n / K), where there are any."""
  n = len(x)
  segments = [
    [r for r in range(n) if s * n <= r * count < (s + 1) * n]
    for s in range(count)
  ]
  return np.stack([x[rows].mean(0) for rows in segments if rows])


def remainder(a, steps=6):
  """U, s, V^T of a matrix, and what the iteration leaves of 1 for each s.

  With r = 1 - s z for a singular value z of Z, a step is
  1 - (1 - r) (13 - (1 - r) (15 - (1 - r) (7 - (1 - r)))) / 4 = r^3 (3 + r) / 4.
  """
  u, s, vt = np.linalg.svd(a)
  r = 1 - s**2 / (abs(a).sum(0).max() * abs(a).sum(1).max())
  for _ in range(steps):
    r = r**3 * (3 + r) / 4
  return u, s, vt, r


def six_steps(a):
  """Z after six iterations, by the singular values of A."""
  u, s, vt, r = remainder(a)
  return vt.T @ np.diag((1 - r) / s) @ u.T


def by_definition(params, x, inverse=six_steps, count=K, skip=False):
  """The real rows of each text alone, in float64: the output and all |Z|."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

  def heads(name, rows):
    rows = rows @ params[name]["kernel"] + params[name]["bias"]
    return rows.reshape(len(rows), H, D).swapaxes(0, 1)

  out, sizes = np.zeros((B, N, H, D)), []
  for b, real in enumerate(REAL):
    q, k, v = (heads(name, x[b, real]) for name in ("query", "key", "value"))
    for h in range(H):
      scale = D**-0.5
      q_land, k_land = means(q[h], count), means(k[h], count)
      z = inverse(softmax(scale * q_land @ k_land.T))
      sizes.append(np.linalg.norm(z, 2))
      across = softmax(scale * q_land @ k[h].T)
      out[b, real, h] = softmax(scale * q[h] @ k_land.T) @ z @ across @ v[h]
      values = np.zeros((N + WIDTH - 1, D))
      values[WIDTH // 2 : N + WIDTH // 2][real] = v[h]
      for i in range(WIDTH if skip else 0):
        out[b, :, h] += params["skip_kernel"][h, i] * values[i : i + N]
  out = out.reshape(B, N, M) @ params["out"]["kernel"] + params["out"]["bias"]
  return out, max(sizes)


def case(sharpness=0, num_landmarks=K, **fields):
  """With a sharpness, a landmark attends to itself and A is close to I.

  Queries and keys are then the rows, and rows of a segment are nearly the same
  vector, as long as that of any other segment.
  """
  module = attention.NystromSelfAttention(H, num_landmarks, **fields)
  x = arrays.draw(B, N, M)
  variables = arrays.filled(module, x)
  if sharpness:
    same = {"kernel": np.eye(M, dtype=np.float32), "bias": np.zeros(M)}
    variables["params"] |= {"query": same, "key": same}
    toward = arrays.draw(num_landmarks, H, D, seed=9)
    toward /= np.linalg.norm(toward, axis=-1, keepdims=True)
    count = REAL.sum(1, keepdims=True)
    segment = (REAL.cumsum(1) - 1) * num_landmarks // count
    x = x / 100 + sharpness * toward[segment].reshape(B, N, M)
  return module, variables, np.float32(x)


def close(got, want, size, *lengths):
  """Within rounding; an error e of A becomes one of |Z|^2 e in Z."""
  want, got = want[REAL], np.asarray(got)[REAL]
  arrays.close(got / (1 + size**2), want / (1 + size**2), *lengths)


@pytest.mark.parametrize("kernel_size", [0, WIDTH])
def test_nystrom_attention_is_its_definition(kernel_size):
  """On texts with holes, and of a length that K does not divide."""
  module, variables, x = case(kernel_size=kernel_size)
  dirty = np.where(REAL[..., None], x, np.nan)
  got = jax.jit(module.apply)(variables, dirty, None, REAL)
  params = variables["params"]
  want, size = by_definition(params, x, skip=bool(kernel_size))
  close(got, want, size, M, D, N, 6 * 4 * K, N, K, M)


def test_the_inverse_is_the_pseudo_inverse_where_it_has_converged():
  module, variables, x = case(sharpness=3)
  left = []

  def inverse(a):
    left.append(remainder(a)[3].max())
    return np.linalg.pinv(a)

  want, size = by_definition(variables["params"], x, inverse)
  assert max(left) < arrays.EPS
  got = jax.jit(module.apply)(variables, x, None, REAL)
  close(got, want, size, M, D, N, 6 * 4 * K, N, K, M)


@pytest.mark.parametrize("sharpness", [0, 5])
def test_a_landmark_for_each_row_gives_softmax_attention(sharpness):
  """But for U diag(r s) V^T values: A Z A is A without it."""
  module, variables, x = case(sharpness, num_landmarks=N)
  softmax_module = attention.SoftmaxSelfAttention(H)
  want = jax.jit(softmax_module.apply)(variables, x, None, REAL)
  got = jax.jit(module.apply)(variables, x, None, REAL)
  missed = []

  def inverse(a):
    _, s, _, r = remainder(a)
    missed.append(max(r * s))
    return six_steps(a)

  params = variables["params"]
  _, size = by_definition(params, x, inverse, count=N)
  values = x @ params["value"]["kernel"] + params["value"]["bias"]
  bound = max(missed) * max(
    np.linalg.norm(values[b, real], 2) for b, real in enumerate(REAL)
  )
  bound *= np.linalg.norm(params["out"]["kernel"], 2)
  error = np.linalg.norm(np.asarray(got - want)[REAL], axis=-1)
  rounding = sum((M, D, N, 6 * 4 * N, N, N, M)) * arrays.EPS * (1 + size**2)
  assert np.all(error <= bound + rounding)
  if sharpness:  # the bound says something
    assert bound + rounding < 0.02 * np.linalg.norm(want[REAL], axis=-1).min()


def test_weights_sum_to_one_where_the_inverse_has_converged():
  """So equal values come out as they are."""
  module, variables, x = case(sharpness=3)
  params = variables["params"]
  params["value"]["kernel"] = np.zeros((M, M), np.float32)
  got = jax.jit(module.apply)(variables, x, None, REAL)
  want = params["value"]["bias"] @ params["out"]["kernel"]
  want = np.broadcast_to(want + params["out"]["bias"], got.shape)
  _, size = by_definition(params, x)
  close(got, want, size, M, D, N, 6 * 4 * K, N, K, M)


def test_the_iteration_moves_singular_values_as_derived():
  """In float64, with some of them far from their limit; then to the limit."""
  a = softmax(2 * np.random.default_rng(0).standard_normal((3, 6, 6)))
  with jax.enable_x64(True):
    run = jax.jit(nystrom.pseudo_inverse, static_argnums=1)
    few, many = np.asarray(run(a, 6)), np.asarray(run(a, 30))
    blank = np.pad(a, [(0, 0), (0, 2), (0, 2)])
    padded = np.asarray(run(blank, 6))
  eps = np.finfo(np.float64).eps
  for i in range(3):
    left = remainder(a[i])[3]
    want, limit = six_steps(a[i]), np.linalg.inv(a[i])
    bound = 6 * 4 * 6 * eps * np.linalg.norm(limit, 2) ** 2
    assert left.max() > 0.01 > left.min()
    np.testing.assert_allclose(few[i], want, rtol=0, atol=bound)
    np.testing.assert_allclose(many[i], limit, rtol=0, atol=bound)
    np.testing.assert_allclose(padded[i, :6, :6], want, rtol=0, atol=bound)
  assert np.all(padded[:, 6:] == 0) and np.all(padded[:, :, 6:] == 0)


@pytest.mark.parametrize("count", [1, K, N, 2 * N])
def test_landmarks_are_means_of_equal_segments_of_the_real_rows(count):
  real = np.concatenate([REAL, np.arange(N)[None] == 8, np.zeros((1, N), bool)])
  x = np.where(real[..., None], arrays.draw(len(real), N, M), 0)
  got, seen = map(np.asarray, nystrom.segment_means(x, real, count))
  for b in range(3):
    arrays.close(got[b, seen[b]], means(x[b, real[b]], count), N)
  np.testing.assert_array_equal(seen.sum(1), real.sum(1).clip(max=count))
  assert np.all(got[~seen] == 0)


def test_a_text_does_not_depend_on_others_of_its_batch():
  """The first Z is scaled for each A, and not for all by the largest."""
  module, variables, x = case()
  run = jax.jit(module.apply)
  before = jax.block_until_ready(run(variables, x, None, REAL))
  x[1] *= 5
  after = run(variables, x, None, REAL)
  np.testing.assert_array_equal(after[0], before[0])


def test_parameters_are_those_of_softmax_attention_and_a_kernel_a_head():
  def count(**fields):
    module, x = (
      attention.NystromSelfAttention(H, K, **fields),
      np.ones((1, N, M)),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return models.num_parameters(shapes["params"])

  assert count() == 4 * M * M + 4 * M
  assert count(kernel_size=WIDTH) == 4 * M * M + 4 * M + H * WIDTH


def test_what_it_does_not_go_with():
  module, variables, x = case()
  with pytest.raises(ValueError, match="means of queries and of keys"):
    module.apply(variables, x, x)

  def config(**fields):
    kind = attention.NystromConfig(**fields)
    return models.ModelConfig(8, 32, 1, M, H, 8, kind)

  with pytest.raises(ValueError, match="num_landmarks 0 must be at least 1"):
    config(num_landmarks=0)
  with pytest.raises(ValueError, match="kernel_size 4 must be odd, or 0"):
    config(kernel_size=4)

  class Mesh:
    shape = {"data": 1, "fsdp": 1, "sequence": 4, "tensor": 1}

  sharding.check_model(config(kernel_size=17), 32, Mesh)
  with pytest.raises(ValueError, match="kernel_size // 2 9 is more than the 8"):
    sharding.check_model(config(kernel_size=19), 32, Mesh)


@pytest.mark.parametrize("kernel_size", [0, 9])
def test_costs_are_linear(kernel_size):
  kind = attention.NystromConfig(num_landmarks=32, kernel_size=kernel_size)
  costs.assert_linear(kind)
  costs.assert_flops(kind)

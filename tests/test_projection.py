"""Projections along the sequence against independent numpy code.

Tolerances: a sum of L float32 products errs by at most about L * eps times the
sum of their magnitudes (first order), and that sum is computed beside it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention
from linformer_jax.attention import projection as lib
from tests import arrays

B, N, K, H, D = 3, 12, 4, 2, 5
W = N // K
LENGTHS = (N, 8, 7, 1)  # whole, a partial last window, uneven, one row
MASKS = ("none", "suffix", "holes", "empty")


def make_mask(name, n):
  if name == "none":
    return None
  mask = np.ones((B, n), bool)
  if name == "suffix":
    mask[0, (n + 1) // 2 :] = False
  elif name == "holes":
    mask = np.random.default_rng(7).random((B, n)) < 0.5
  else:
    mask[1] = False
  return mask


def windows_of(n):
  """(slot, rows of it) for an input of n rows."""
  return [(s, range(s, min(s + W, n))) for s in range(0, n, W)]


def even_windows(count, slots):
  """(slot, ranks of its real rows): the first, then as numpy divides."""
  rest = np.array_split(np.arange(1, count), max(1, slots - 1))
  return enumerate([np.arange(min(count, 1)), *rest][:slots])


def reference(kind, x, mask, weights):
  """(result, sum of magnitudes), in float64 with loops, by the definition."""
  b, n = x.shape[:2]
  real = np.ones((b, n), bool) if mask is None else mask
  x = np.where(real[..., None, None], x, 0).astype(np.float64)
  if kind in lib.DENSE:
    matrix = np.broadcast_to(weights, (H, K, N))[..., :n].astype(np.float64)
    result = np.stack([matrix[h] @ x[:, :, h] for h in range(H)], axis=2)
    sizes = np.stack(
      [abs(matrix[h]) @ abs(x[:, :, h]) for h in range(H)], axis=2
    )
    return result, sizes
  if kind == "adaptive_pool":
    k = min(K, n)
    result, sizes = (np.zeros((b, k, H, D)) for _ in range(2))
    for i in range(b):
      rows = x[i, real[i]]
      for slot, ranks in even_windows(len(rows), k):
        if len(ranks):
          result[i, slot] = rows[ranks].mean(0)
          sizes[i, slot] = abs(rows[ranks]).mean(0)
    return result, sizes
  slots = windows_of(n)
  result = np.zeros((b, len(slots), H, D))
  sizes = np.zeros_like(result)
  for i, (slot, (_, rows)) in itertools.product(range(b), enumerate(slots)):
    kept = [r for r in rows if real[i, r]]
    if kind == "mean_pool" and kept:
      result[i, slot] = np.mean(x[i, kept], axis=0)
      sizes[i, slot] = np.mean(abs(x[i, kept]), axis=0)
    elif kind == "max_pool" and kept:
      result[i, slot] = np.max(x[i, kept], axis=0)
    elif kind == "convolution":
      kernels = np.broadcast_to(weights, (H, W, D, D)).astype(np.float64)
      for h, (w, r) in itertools.product(range(H), enumerate(rows)):
        result[i, slot, h] += x[i, r, h] @ kernels[h, w]
        sizes[i, slot, h] += abs(x[i, r, h]) @ abs(kernels[h, w])
  return result, sizes


def make_weights(kind, by_head):
  shape = lib.weights_shape(kind, N, K, D)
  if shape is None:
    return None
  return arrays.draw(*((H,) if by_head else ()), *shape, seed=1)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("kind", lib.KINDS)
def test_equals_numpy(kind, by_head):
  weights = make_weights(kind, by_head)
  by = lib.Projection(kind, N, K, weights)
  terms = {"convolution": W * D, "mean_pool": W, "max_pool": 0}.get(kind, N)
  run = jax.jit(attention.project_sequence)
  for n, mask_name in itertools.product(LENGTHS, MASKS):
    x, mask = arrays.draw(B, n, H, D), make_mask(mask_name, n)
    got, slots = run(x, by, mask)
    want, sizes = reference(kind, x, mask, weights)
    assert got.shape == want.shape
    assert np.all(abs(got - want) <= terms * arrays.EPS * sizes), (n, mask_name)
    if mask is None:
      assert slots is None
      continue
    if kind in lib.DENSE:
      seen = np.repeat(mask.any(1, keepdims=True), K, 1)
    elif kind == "adaptive_pool":
      seen = np.arange(min(K, n)) < mask.sum(1, keepdims=True)
    else:
      seen = np.stack([mask[:, r].any(1) for _, r in windows_of(n)], 1)
    np.testing.assert_array_equal(slots, seen)


@pytest.mark.parametrize("kind", lib.COMMUTING)
@pytest.mark.parametrize("by_head", [False, True])
def test_rows_without_heads_are_projected_alike(kind, by_head):
  """[B, N, M] gives what M = D, the same row for every head, gives."""
  by = lib.Projection(kind, N, K, make_weights(kind, by_head))
  x, mask = arrays.draw(B, N, D), make_mask("holes", N)
  flat, _ = attention.project_sequence(x, by, mask)
  repeated = np.repeat(x[:, :, None], H, axis=2)
  split, _ = attention.project_sequence(repeated, by, mask)
  if flat.ndim == 3:
    flat = np.repeat(flat[:, :, None], H, axis=2)
  _, sizes = reference(kind, repeated, mask, by.weights)
  assert np.all(abs(flat - split) <= 2 * N * arrays.EPS * sizes)


def test_an_adaptive_pool_of_few_rows_is_softmax_attention():
  """Exact up to K real rows, wherever the padding is; not for more."""
  sizes = dict(num_heads=H, max_length=N, projected_length=K)
  ours = attention.LinformerSelfAttention(**sizes, projection="adaptive_pool")
  exact = attention.SoftmaxSelfAttention(num_heads=H)
  x = arrays.draw(B, N, H * D)
  variables = exact.init(jax.random.key(0), x)
  for count, same in ((K, True), (K + 1, False)):
    mask = np.zeros((B, N), bool)
    mask[:, np.random.default_rng(0).permutation(N)[:count]] = True
    got = ours.apply(variables, x, mask=mask)[mask]
    want = exact.apply(variables, x, mask=mask)[mask]
    assert (abs(got - want).max() < 1e-5) == same


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", lib.KINDS)
def test_poisoned_pads_change_no_bit(kind, poison):
  by = lib.Projection(kind, N, K, make_weights(kind, False))
  x, mask = arrays.draw(B, N, H, D), make_mask("holes", N)

  def value(x, weights):
    by = lib.Projection(kind, N, K, weights)
    return jnp.sum(jnp.sin(attention.project_sequence(x, by, mask)[0]))

  run = jax.jit(jax.value_and_grad(value, (0, 1)))
  clean = run(x, by.weights)
  dirty = run(np.where(mask[..., None, None], x, poison), by.weights)
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)
  assert np.all(clean[1][0][~mask] == 0)
  assert np.all(np.any(clean[1][0] != 0, axis=(2, 3)) <= mask)


def test_random_is_fixed_and_has_the_lemmas_variance():
  """Entries N(0, 1 / K), so that E E^T has expectation N / K and not 1."""
  n, k = 200, 50
  module = lib.SequenceProjection("random", n, k)
  variables = module.init(jax.random.key(0), D)
  assert set(variables) == {"constants"}
  values = np.asarray(variables["constants"]["kernel"], np.float64)
  assert values.shape == (k, n)
  # Five standard errors: sqrt(v / S) of a mean, v sqrt(2 / S) of a variance.
  size, variance = values.size, 1 / k
  assert abs(values.mean()) < 5 * np.sqrt(variance / size)
  assert abs(values.var() - variance) < 5 * variance * np.sqrt(2 / size)
  again = module.init(jax.random.key(1), D)["constants"]["kernel"]
  assert not np.array_equal(values, again)


def test_convolution_starts_with_the_variance_of_its_fan_in():
  """Outputs of unit-variance rows start with unit variance, in every head."""
  wide, heads = 16, 3
  module = lib.SequenceProjection("convolution", 8 * K, K, heads)
  kernel = module.init(jax.random.key(0), wide)["params"]["window_kernel"]
  assert kernel.shape == (heads, 8, wide, wide)
  per_head = np.var(np.asarray(kernel), axis=(1, 2, 3)) * 8 * wide
  # Truncation at two sigma leaves fourth moments below the normal's.
  assert np.all(abs(per_head - 1) < 5 * np.sqrt(2 / (8 * wide * wide)))


@pytest.mark.parametrize(
  ("kind", "n", "k", "parts"),
  [
    ("linear", 8, 9, ("9", "8")),
    ("linear", 8, 0, ("0", "8")),
    ("mean_pool", 10, 4, ("10 = 2 * 4 + 2",)),
    ("convolution", 10, 3, ("10 = 3 * 3 + 1",)),
    ("fourier", 8, 4, ("'fourier'", *lib.KINDS)),
  ],
)
def test_sizes_that_disagree(kind, n, k, parts):
  with pytest.raises(ValueError) as error:
    lib.weights_shape(kind, n, k, D)
  assert all(part in str(error.value) for part in parts)


def test_inputs_that_do_not_fit():
  by = lib.Projection("linear", N, K, make_weights("linear", False))
  with pytest.raises(ValueError, match=f"{N + 1} tokens.*max_length {N}"):
    attention.project_sequence(arrays.draw(B, N + 1, D), by)
  with pytest.raises(ValueError, match=r"\(3, 11\).*\(3, 12\)"):
    attention.project_sequence(
      arrays.draw(B, N, D), by, np.ones((B, N - 1), bool)
    )
  by = lib.Projection("convolution", N, K, make_weights("convolution", False))
  with pytest.raises(ValueError, match=r"\[B, N, H, D\].*3 axes"):
    attention.project_sequence(arrays.draw(B, N, D), by)

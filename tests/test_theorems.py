"""Theorems 1 and 2: what is exact about them, and what the page says."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments import page as page_lib
from experiments.theorems import (
  bounds,
  draws,
  measure,
  minilm,
  practice,
  render,
  settings,
)
from linformer_jax.models import weights as weights_lib
from linformer_jax.tools import spectrum
from tests import arrays, bert


@pytest.fixture(scope="module")
def found():
  return measure.records()


@pytest.fixture(scope="module")
def projections():
  """Draws of R [4000, 64, 12], as one array of numpy."""
  keys = jax.random.split(jax.random.key(1), 4000)
  draw = jax.jit(jax.vmap(lambda key: draws.projection(key, 64, 12)))
  return np.asarray(draw(keys), np.float64)


def test_projection_is_unbiased(projections):
  """E[R^T R] = I; entries have variance (1 + [i = j]) / k."""
  number, k, n = projections.shape
  mean = (projections.swapaxes(1, 2) @ projections).mean(0)
  deviation = np.sqrt((1 + np.eye(n)) / (k * number))
  # Six standard deviations: 144 entries are over by chance once in 3e6.
  assert np.all(np.abs(mean - np.eye(n)) < 6 * deviation)


def test_lemma_holds_where_it_is_tightest(projections):
  """x = y: k |R x|^2 is chi-squared, whose tails are known."""
  number, k, n = projections.shape
  epsilon = 0.3
  norms = np.sum((projections @ np.ones(n) / n**0.5) ** 2, axis=1)
  rate = np.mean(np.abs(norms - 1) > epsilon)
  upper = jax.scipy.special.gammaincc(k / 2, (1 + epsilon) * k / 2)
  lower = jax.scipy.special.gammainc(k / 2, (1 - epsilon) * k / 2)
  exact = float(upper + lower)
  assert abs(rate - exact) < 5 * math.sqrt(exact * (1 - exact) / number)
  assert 0 < rate < bounds.tail(epsilon, k) < 1


@pytest.mark.parametrize("cosine", [-1.0, -0.5, 0.0, 0.7, 1.0])
def test_chi_squared_is_the_worst_inner_product(cosine):
  """The cumulants behind the lemma's factor 2, see `bounds.tail`."""
  for m in range(2, 40):
    upper = (1 + cosine) ** m + (-1) ** m * (1 - cosine) ** m
    assert upper <= 2**m
  for epsilon in np.linspace(0.01, 0.99, 99):
    rate = (epsilon - math.log(1 + epsilon)) / 2
    assert rate >= bounds.exponent(epsilon) / 4


def test_root_mean_square_of_theorem_1(projections):
  """Both forms, against the formulas, on one P and w."""
  number, k, n = projections.shape
  random = np.random.default_rng(2)
  p = np.exp(random.normal(size=(n, n)))
  p /= p.sum(1, keepdims=True)
  w = random.normal(size=n)
  change = np.einsum("ski,sk->si", projections, projections @ w) - w
  squares = np.sum((change @ p.T) ** 2, axis=1)
  unit, exact = np.linalg.norm(p) * np.linalg.norm(w), np.linalg.norm(p @ w)
  error = 5 * np.std(squares) / number**0.5
  for scale, rms in ((exact, bounds.printed_rms), (unit, bounds.supported_rms)):
    expected = (rms(exact / unit, k) * scale) ** 2
    assert abs(np.mean(squares) - expected) < error


def test_theorem_k_leaves_twice_n_to_the_minus_quarter():
  for n in settings.LENGTHS:
    for epsilon in bounds.EPSILONS:
      k = bounds.theorem_k(n, epsilon)
      one_less = bounds.union(epsilon, k - 1, n)
      assert bounds.union(epsilon, k, n) <= 2 * n**-0.25 <= one_less


def test_construction_forgets_its_input_as_delta_vanishes():
  """At 0 it is uniform attention to F V; near 0 it is near, to first order."""
  k, n, d = 6, 20, 3
  random = np.random.default_rng(3)
  r = random.normal(size=(k, n)).astype("float32") / k**0.5
  v, w = (random.normal(size=(m, n)).astype("float32") for m in (d, 2))
  rv = r @ v.T
  construct = jax.jit(lambda delta: draws.constructed(w, v.T, r, delta))
  limit, zero = rv.mean(0), np.asarray(construct(0.0))
  np.testing.assert_array_equal(zero[0], zero[1])
  # A sum of n terms and a mean of k, in float32, in another order.
  most = np.abs(r) @ np.abs(v.T)
  tolerance = (n + k) * np.finfo(np.float32).eps * most.max()
  assert np.abs(zero - limit).max() < tolerance
  # |softmax(u) - softmax(0)|_1 <= max u - min u, and 1 - exp(-delta) <= delta.
  for delta in (1e-3, 1e-2):
    out = np.asarray(construct(delta))
    spread = np.ptp(w @ r.T, axis=1, keepdims=True)
    change = delta * (spread + 1) * np.abs(rv).max(0)
    assert np.all(np.abs(out - limit) <= change + tolerance)
    assert np.abs(out[0] - out[1]).max() > 10 * tolerance


def test_identity_projections_are_attention():
  setting = settings.Setting("practice", 12, 4, 12, "low_rank")

  @jax.jit
  def both(key):
    b = practice.basis(key, setting)
    q, k, v = practice.sequences(key, b, 2, 12, setting)
    pool = practice.mean_pool(setting)
    exact, _ = practice.attend(q, k, v)
    return exact, practice.linformer(q, k, v, pool, pool)

  exact, same = both(jax.random.key(4))
  np.testing.assert_allclose(same, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("known", [False, True])
def test_no_rank_k_is_nearer_than_the_best(known):
  """Over V = root Z the mean square is |(P~ - P) root|_F^2: Eckart, Young."""
  n, k = 12, 4
  random = np.random.default_rng(5)
  p = jax.nn.softmax(arrays.draw(n, n, seed=5))
  root = np.tril(random.normal(size=(n, n))) + 3 * np.eye(n)
  root = np.float32(root if known else np.eye(n))
  # With Z = I the product is P~ root itself.
  best = draws.best_product(p, root, k, root if known else None)
  found = np.linalg.norm(best - p @ root)
  tail = np.linalg.svd(p @ root, compute_uv=False)[k:]
  # LAPACK errs by a modest multiple of eps times the norm, the solve by that
  # times the condition of the root.
  bound = n * n * arrays.EPS * np.linalg.norm(p @ root) * np.linalg.cond(root)
  assert abs(found - np.linalg.norm(tail)) < bound
  for seed in range(20):
    left, right = np.split(arrays.draw(2 * k, n, seed=seed), 2)
    for other in (p @ right.T @ right, p @ np.linalg.pinv(right) @ right):
      assert np.linalg.norm((other - p) @ root) > found - bound
    assert np.linalg.norm((left.T @ right - p) @ root) > found - bound


def test_fit_never_ends_worse_than_its_start():
  setting = settings.Setting("practice", 8, 4, 2, "low_rank")
  b = practice.basis(jax.random.key(0), setting)
  start = practice.starts(jax.random.key(1), setting)["fitted_pool"]

  @jax.jit
  def both(rate):
    fitted, _ = practice.fit(jax.random.key(2), start, rate, (b, b), setting)
    batch = practice.sequences(jax.random.key(3), b, 99, 8, setting)
    exact, _ = practice.attend(*batch)
    outs = (practice.linformer(*batch, *pair) for pair in (fitted, start))
    return fitted, *(practice.relative_error(out, exact) for out in outs)

  fitted, ends, starts = both(1e-3)
  assert ends < 0.99 * starts
  fitted, ends, starts = both(1e3)  # The updates diverge.
  np.testing.assert_array_equal(fitted, start)


def test_maps_of_heads_are_those_of_the_encoder():
  config, variables = weights_lib.convert(bert.tensors(), bert.H)
  tokens = np.random.default_rng(0).integers(0, bert.V, (2, bert.N))
  found = minilm.maps(config, variables, tokens)
  matrices = spectrum.attention(config, variables, tokens)
  assert len(found) == len(matrices) == bert.L
  for (q, k, v), want in zip(found.values(), matrices, strict=True):
    scores = q @ k.swapaxes(2, 3) / bert.D**0.5
    np.testing.assert_allclose(jax.nn.softmax(scores), want, rtol=1e-4)
    assert v.shape == k.shape and np.abs(v - k).max() > 0.01
  pairs = tuple(x.reshape(-1, bert.N, bert.D) for x in found[0])
  for q, k, v in zip(*minilm.draw(jax.random.key(0), pairs, 5, 7), strict=True):
    (one,) = (one for one in zip(*pairs, strict=True) if np.all(one[1] == k))
    np.testing.assert_array_equal(one[2], v)
    rows, whole = (
      {row.tobytes() for row in np.asarray(x)} for x in (q, one[0])
    )
    assert len(rows) == 7 and rows <= whole


def test_minilm_needs_its_files():
  with pytest.raises(ValueError, match="--weights"):
    minilm.load("", "", "")


def test_page_is_rendered_from_the_committed_results(found):
  page = render.PAGE.read_text()
  parts = render.sections(found)
  assert all(mark in page for mark in parts)
  assert page_lib.renew(page, parts) == page


def test_every_setting_is_there(found):
  assert set(settings.every_setting()) == set(found)


def theorem(found, check):
  return [(s, record) for s, record in found.items() if s.check == check]


def test_supported_form_stays_under_the_lemma(found):
  for s, record in theorem(found, "theorem1"):
    fails = record["failures"]
    for i, bound in enumerate(record["union_bound"]):
      assert fails["supported"][i] <= fails["worst_row"][i]
      assert fails["worst_row"][i] <= bound * s.seeds
      assert record["rows_over"][i] <= record["lemma_tail"][i]


def test_error_of_theorem_1_is_the_formula(found):
  """Of the supported form, whose mean square is linear in that of `zero`."""
  for s, record in theorem(found, "theorem1"):
    rms = record["rms"]
    expected = bounds.supported_rms(rms["zero"], s.k) ** 2
    # Five standard deviations, if all rows of P were parallel: the square of
    # one nearly normal number, of variance 2.
    tolerance = 5 * (2 / s.seeds) ** 0.5
    assert rms["supported"] ** 2 == pytest.approx(expected, rel=tolerance)


def test_printed_form_fails_for_zero_mean_values(found):
  """The error is near sqrt((n + 1) / k), whatever P."""
  for s, record in theorem(found, "theorem1"):
    if s.values == "zero_mean":
      expected = ((s.n + 1) / s.k) ** 0.5
      middle = render.median(record, "printed")
      assert middle == pytest.approx(expected, rel=0.1)
      if expected > 1:
        assert record["failures"]["printed"][1] > 0.95 * s.seeds


def test_construction_is_about_as_far_off_as_zero(found):
  """As the page says: 1% nearer at most for k < n, 7% else."""
  for s, record in theorem(found, "theorem2"):
    errors = [render.median(record, name) for name in ("construction", "zero")]
    assert errors[0] > (0.99 if s.k < s.n else 0.93) * errors[1]
    assert record["failures"]["mean"] == [0, 0, 0]


def test_small_delta_is_no_better_than_zero(found):
  """The limit is zero on average over the sign of R, whatever the input."""
  for s, record in theorem(found, "theorem2"):
    if s.delta == 0:
      assert record["rms"]["construction"] > 0.97 * record["rms"]["zero"]
      assert record["quantiles"]["response"][-1] < 1e-5


def test_no_rank_k_in_the_tables_beats_the_best(found):
  for s, record in theorem(found, "practice"):
    errors = dict(record["relative"])
    best = errors.pop("best_rank")
    assert best < min(errors.values()), s
  measured = {
    dataclasses.replace(s, seeds=0) for s, _ in theorem(found, "best_rank")
  }
  for s, record in theorem(found, "theorem1"):
    if dataclasses.replace(s, check="best_rank", seeds=0) not in measured:
      continue
    for name in ("printed", "supported", "worst_row"):
      best = render.yardstick(found, s, name)
      assert best < render.median(record, name)


def test_best_rank_meets_the_printed_bound(found):
  """As the page says: in the median, at each of theorem 1's k."""
  for s, record in theorem(found, "best_rank"):
    for epsilon in bounds.EPSILONS:
      if s.k == bounds.theorem_k(s.n, epsilon):
        assert render.median(record, "printed") < epsilon


def test_fitted_projections_beat_the_construction(found):
  """And the start: on held-out sequences, so but for their choice."""
  for s, record in theorem(found, "practice"):
    errors = record["relative"]
    others = errors["construction"], errors["plain"]
    assert errors["fitted_pool"] < min(1, *others)
    assert errors["fitted_pool"] < 1.01 * errors["mean_pool"]
    if s.values == "low_rank":
      assert errors["fitted"] < errors["mean_pool"]

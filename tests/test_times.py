"""Kernels of time: what holds exactly, in float64, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax.models.inputs import times
from tests import arrays

N, M = 12, 7
T = np.sort(np.random.default_rng(0).uniform(0, 300, N))
MADE = {
  name: times.Bochner(M, name, dtype=jnp.float64)
  for name in times.DISTRIBUTIONS
} | {"mercer": times.Mercer(3, degree=4, dtype=jnp.float64)}
EXACT = dict(rtol=0, atol=1e-10)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def filled(module):
  """A function of times with random parameters, in float64."""
  variables = module.init(jax.random.key(0), T)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: x + rng.normal(0, 0.3, x.shape), variables["params"]
  )
  variables = dict(variables) | {"params": params}
  return lambda t: np.asarray(module.apply(variables, t)), variables


def gram(phi, t):
  return phi(t) @ phi(t).T


@pytest.mark.parametrize("name", MADE)
def test_products_depend_on_differences_alone(name):
  phi, _ = filled(MADE[name])
  found = gram(phi, T)
  assert np.ptp(found) > 0.1
  for shift in (-17.3, 1e3):
    np.testing.assert_allclose(gram(phi, T + shift), found, **EXACT)
  # So K(t, t') is psi(t - t').
  t = np.array([0.0, 5.0, 10.0])
  found = gram(phi, t)
  np.testing.assert_allclose(found[0, 1], found[1, 2], **EXACT)


@pytest.mark.parametrize("name", MADE)
def test_products_are_positive_semidefinite(name):
  phi, _ = filled(MADE[name])
  assert np.linalg.eigvalsh(gram(phi, T)).min() > -1e-10
  # And so are those of projected rows, functions of differences, too.
  e = arrays.draw(4, N).astype(np.float64)
  slots = e @ phi(T)
  assert np.linalg.eigvalsh(slots @ slots.T).min() > -1e-10
  np.testing.assert_allclose(
    phi(T + 40) @ (e @ phi(T + 40)).T, phi(T) @ slots.T, **EXACT
  )


@pytest.mark.parametrize("name", times.DISTRIBUTIONS)
def test_bochner_is_the_mean_of_cosines(name):
  module = MADE[name]
  phi, variables = filled(module)
  rates = np.asarray(module.apply(variables, method="rates"))
  assert rates.shape == (M,) and len(set(rates)) == M
  want = np.cos((T[:, None] - T)[..., None] * rates).mean(-1)
  np.testing.assert_allclose(gram(phi, T), want, **EXACT)
  np.testing.assert_allclose((phi(T) ** 2).sum(-1), 1, **EXACT)


def test_a_shift_is_a_rotation():
  module = MADE["free"]
  phi, variables = filled(module)
  rates = np.asarray(module.apply(variables, method="rates"))

  def rotation(s):
    cos, sin = np.diag(np.cos(rates * s)), np.diag(np.sin(rates * s))
    return np.block([[cos, -sin], [sin, cos]])

  np.testing.assert_allclose(phi(T + 3.7), phi(T) @ rotation(3.7).T, **EXACT)
  np.testing.assert_allclose(
    rotation(2.0) @ rotation(3.0), rotation(5.0), **EXACT
  )


def test_normal_frequencies_estimate_a_gaussian_kernel():
  """With an error that falls as sqrt(1/m)."""
  t, errors = np.linspace(0, 2, 20), []
  for m in (64, 4_096):
    found = []
    for seed in range(20):
      module = times.Bochner(m, "normal", dtype=jnp.float64)
      variables = module.init(jax.random.key(seed), t)
      deviation = np.exp(variables["params"]["log_deviation"])
      phi = np.asarray(module.apply(variables, t))
      found.append(phi @ phi[0] - np.exp(-((deviation * t) ** 2) / 2))
    errors.append(np.sqrt(np.mean(np.square(found))))
  np.testing.assert_allclose(errors[0] / errors[1], 8, rtol=0.2)


def test_draws_are_kept():
  module = MADE["inverse_cdf"]
  phi, variables = filled(module)
  assert variables["constants"]["drawn"].shape == (M,)
  np.testing.assert_array_equal(phi(T), phi(T))


def test_mercer_is_periodic_and_in_closed_form():
  module = times.Mercer(1, degree=4, shortest=5.0, dtype=jnp.float64)
  phi, variables = filled(module)
  params = variables["params"]
  period = float(np.exp(params["log_periods"][0]))
  np.testing.assert_allclose(phi(T + 2 * period), phi(T), **EXACT)
  weights = np.logaddexp(0, params["weights"][0, 0])
  angles = np.pi / period * (T[:, None] - T)
  want = sum(c * np.cos(j * angles) for j, c in enumerate(weights))
  np.testing.assert_allclose(gram(phi, T), want, **EXACT)


def test_mercer_has_length_one_for_each_period_at_first():
  module = times.Mercer(3, degree=4, dtype=jnp.float64)
  phi = module.apply(module.init(jax.random.key(0), T), T)
  assert phi.shape == (N, module.features) == (N, 27)
  np.testing.assert_allclose((phi**2).sum(-1), 3, **EXACT)


def test_untied_weights_depend_on_when():
  phi, _ = filled(times.Mercer(3, tied=False, dtype=jnp.float64))
  found = gram(phi, T)
  assert np.linalg.eigvalsh(found).min() > -1e-10
  assert abs(gram(phi, T + 17.3) - found).max() > 0.1


def test_linear_maps_of_features_depend_on_when():
  """A learned W_Q and W_K undo what products of the features have."""
  phi, _ = filled(MADE["free"])
  w = arrays.draw(2, 2 * M, 2 * M)

  def scores(t):
    return phi(t) @ w[0] @ w[1].T @ phi(t).T

  assert abs(scores(T + 17.3) - scores(T)).max() > 1
  # Differences from a time that moves along keep it.
  np.testing.assert_allclose(scores(T - T[-1]), scores((T + 9) - (T[-1] + 9)))


def test_times_are_subtracted_in_float64():
  seconds = 1.4e9 + np.array([0.0, 1.0, 90.0])
  found = times.since(seconds, seconds[0], unit=60)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, [0, 1 / 60, 1.5], rtol=1e-6)
  assert np.float32(seconds[1]) == np.float32(seconds[0])  # in float32 not
  rows = times.since([seconds, seconds + 5], [seconds[0], seconds[0]])
  np.testing.assert_allclose(rows[1], [5, 6, 95])


@pytest.mark.parametrize(
  ("module", "message"),
  [
    (times.Bochner(2, "gamma"), "'gamma' is not one of free, normal"),
    (times.Bochner(0), "frequencies 0 must be at least 1"),
    (times.Bochner(2, longest=0.5), "longest 0.5 must be at least 1.0"),
    (times.Mercer(2, degree=0), "degree 0 must be at least 1"),
    (times.Mercer(2, shortest=0.0), "shortest 0.0 must be at least 1e-09"),
  ],
)
def test_bad_fields(module, message):
  with pytest.raises(ValueError, match=message):
    module.init(jax.random.key(0), T)

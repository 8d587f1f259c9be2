"""Functional time representations: features whose products are kernels of time.

Phi(t)^T Phi(t') = psi(t - t'), so attention over events at t and t' can tell
how far apart they are, wherever they lie (Xu et al. 2019, arXiv 1911.12864).
The authors' code differs, see `Mercer.tied` and `Bochner.distribution`.

A float32 holds no time since 1970 to the second: subtract times in float64 on
the host, by `since`, and use a unit in which they are not large, such as days.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax.attention import base

DISTRIBUTIONS = ("free", "normal", "inverse_cdf")
_HIDDEN = 32  # of the inverse CDF


def since(times, origin, unit: float = 1.0) -> np.ndarray:
  """Returns (times - origin) / unit, subtracted in float64, as float32.

  Args:
    times: numbers [..., N], such as seconds since 1970.
    origin: numbers [...], one for each sequence, such as its first time.
    unit: of the result, such as 86,400 for days.
  """
  times = np.asarray(times, np.float64)
  origin = np.asarray(origin, np.float64)[..., None]
  return ((times - origin) / unit).astype(np.float32)


def _log_spaced(shortest: float, longest: float):
  """Returns an initializer of logarithms of periods, the shortest first."""
  base.require_range("shortest", shortest, 1e-9)
  base.require_range("longest", longest, shortest)

  def init(key, shape, dtype=jnp.float32):
    del key
    ends = math.log(shortest), math.log(longest)
    return jnp.linspace(*ends, shape[0], dtype=dtype)

  return init


class Bochner(nn.Module):
  """Cosines and sines of m frequencies, sqrt(1/m) [cos w t, sin w t].

  A continuous kernel psi(t - t') with psi(0) = 1 is the mean of cos w (t - t')
  over a distribution of w (Bochner's theorem); m frequencies estimate it, with
  an error that falls as sqrt(1/m). Products do not change if all times move,
  Phi(t) has length 1, and Phi(t + s) = R(s) Phi(t) for a rotation R(s).

  Attributes:
    frequencies: m, so that there are 2 m features.
    distribution: of the frequencies, all of which are trained: 'free', m
      parameters; 'normal', mu + sigma e; 'inverse_cdf', G(u) for an MLP G with
      a residual. e ~ N(0, 1) and u ~ U(0, 1) are drawn once and kept in the
      collection 'constants'; the authors' code draws them in every call, in
      evaluation, too.
    shortest, longest: periods of 'free' frequencies at first, evenly spaced by
      their logarithms; the shortest is about that of the largest frequencies
      of the others.
    dtype: of the features.
  """

  frequencies: int
  distribution: str = "free"
  shortest: float = 1.0
  longest: float = 1_000.0
  dtype: Any = jnp.float32

  @property
  def features(self) -> int:
    """How many numbers represent a time."""
    return 2 * self.frequencies

  def _drawn(self, draw):
    """Returns a constant [m] that is drawn once."""
    kept = self.variable(
      "constants",
      "drawn",
      lambda: draw(self.make_rng("params"), (self.frequencies,), self.dtype),
    )
    return kept.value

  @nn.compact
  def rates(self):
    """Returns the frequencies [m], in radians per unit of time."""
    base.require_choice("distribution", self.distribution, DISTRIBUTIONS)
    base.require_range("frequencies", self.frequencies, 1)
    largest = 2 * math.pi / self.shortest
    if self.distribution == "free":
      init = _log_spaced(self.shortest, self.longest)
      periods = self.param("log_periods", init, (self.frequencies,), self.dtype)
      return 2 * math.pi * jnp.exp(-periods)
    if self.distribution == "normal":
      mean = self.param("mean", nn.initializers.zeros, (), self.dtype)
      width = nn.initializers.constant(math.log(largest / 3))
      width = self.param("log_deviation", width, (), self.dtype)
      return mean + jnp.exp(width) * self._drawn(jax.random.normal)
    u = self._drawn(jax.random.uniform)[:, None]
    dense = dict(dtype=self.dtype, param_dtype=self.dtype)
    hidden = nn.tanh(nn.Dense(_HIDDEN, name="in", **dense)(u))
    return largest * (u + nn.Dense(1, name="out", **dense)(hidden))[:, 0]

  def __call__(self, times):
    """Returns features [..., 2 m] of times [...]."""
    angles = jnp.asarray(times, self.dtype)[..., None] * self.rates()
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return waves * self.frequencies**-0.5


class Mercer(nn.Module):
  """Fourier features of m base periods, with learned weights.

  For the base period w_b and j = 1 .. J,

    Phi_b(t) = [sqrt c_0, sqrt c_j cos(j pi t/w_b), sqrt s_j sin(j pi t/w_b)]

  is the truncated expansion (Mercer's theorem) of a periodic kernel, of period
  2 w_b. All c, s >= 0 are learned, so products are positive semidefinite.

  Attributes:
    periods: m.
    degree: J, so that there are m (2 J + 1) features.
    tied: whether s_j = c_j. Only then are products functions of t - t' alone;
      the authors' code is untied, one sum of its terms for each period.
    shortest, longest: base periods at first, evenly spaced by their logarithms;
      they are trained.
    dtype: of the features.
  """

  periods: int
  degree: int = 5
  tied: bool = True
  shortest: float = 1.0
  longest: float = 1_000.0
  dtype: Any = jnp.float32

  @property
  def features(self) -> int:
    """How many numbers represent a time."""
    return self.periods * (2 * self.degree + 1)

  @nn.compact
  def __call__(self, times):
    """Returns features [..., m (2 J + 1)] of times [...]."""
    base.require_range("periods", self.periods, 1)
    base.require_range("degree", self.degree, 1)
    m, degree = self.periods, self.degree
    log_periods = self.param(
      "log_periods", _log_spaced(self.shortest, self.longest), (m,), self.dtype
    )
    # At first Phi_b has length 1.
    one = math.log(math.expm1(1 / (1 + degree)))
    weights = nn.softplus(
      self.param(
        "weights",
        nn.initializers.constant(one),
        (1 if self.tied else 2, m, 1 + degree),
        self.dtype,
      )
    )
    roots = jnp.sqrt(weights)
    j = jnp.arange(1, 1 + degree)
    rates = jnp.pi * j * jnp.exp(-log_periods)[:, None]  # [m, J]
    angles = jnp.asarray(times, self.dtype)[..., None, None] * rates
    waves = [
      jnp.broadcast_to(roots[0, :, :1], (*angles.shape[:-1], 1)),
      roots[0, :, 1:] * jnp.cos(angles),
      roots[-1, :, 1:] * jnp.sin(angles),
    ]
    found = jnp.concatenate(waves, axis=-1)
    return found.reshape(*found.shape[:-2], self.features)

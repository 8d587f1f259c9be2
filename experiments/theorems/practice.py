"""Compares E and F fitted to a source of sequences with the theorem's."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments.theorems import draws, settings

RANK = 16  # of keys and values over positions, if the source has structure
NOISE = 0.3  # standard deviation; that of the structure is 1
QUERIES = 64  # per sequence
BATCH = 16  # sequences
STEPS = 300
LEARNING_RATE = 3e-3  # the peak; 5% warmup and cosine decay to zero
HELD_OUT = 64  # sequences
RANDOM = 8  # draws of R to average an error over


def basis(key, setting: settings.Setting):
  """Returns a source's B [n, RANK], with entries of variance about 1/RANK."""
  if setting.values == "low_rank":
    return jax.random.normal(key, (setting.n, RANK)) / RANK**0.5
  positions = (jnp.arange(setting.n) + 0.5) / setting.n
  waves = jnp.cos(jnp.pi * positions[:, None] * jnp.arange(RANK))
  scale = jnp.where(jnp.arange(RANK) == 0, 1, 2**0.5)
  return waves * scale / RANK**0.5


def sequences(key, b, number: int, setting: settings.Setting):
  """Draws queries, keys and values from the source `setting.values`.

  In 'gaussian', positions are independent, so E has nothing to learn.
  Otherwise keys and values are B C + noise, with B fixed and C drawn for each
  sequence, scaled to variance 1.

  Returns:
    q [number, QUERIES, d], times the scale of scores; k and v [number, n, d].
  """
  keys = jax.random.split(key, 5)
  q = jax.random.normal(keys[0], (number, QUERIES, setting.d))
  shape = (number, setting.n, setting.d)
  k, v = (jax.random.normal(x, shape) for x in keys[1:3])
  if setting.values != "gaussian":
    small = (number, RANK, setting.d)
    k, v = (
      (b @ jax.random.normal(x, small) + NOISE * y) / (1 + NOISE**2) ** 0.5
      for x, y in zip(keys[3:], (k, v), strict=True)
    )
  return setting.scale * q, k, v


def attend(q, k, v):
  """Returns softmax(q k^T / sqrt(d)) v and the row norms of the softmax."""
  p = jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5)
  return p @ v, jnp.linalg.norm(p, axis=-1)


def linformer(q, k, v, e, f):
  """Returns softmax(q (E k)^T / sqrt(d)) F v."""
  return attend(q, e @ k, f @ v)[0]


def relative_error(out, exact):
  """Returns |out - exact| / |exact| over all entries."""
  return jnp.linalg.norm(out - exact) / jnp.linalg.norm(exact)


def fit(key, b, setting: settings.Setting):
  """Fits E and F to least mean squared error, by Adam on fresh sequences.

  Returns:
    E and F [k, n], and the loss of each update over the mean square of the
    target.
  """
  start, data = jax.random.split(key)
  shape = (2, setting.k, setting.n)
  weights = jax.random.normal(start, shape) / setting.n**0.5
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, LEARNING_RATE, STEPS // 20, STEPS
  )
  optimizer = optax.adam(schedule)

  def loss(weights, batch):
    exact, _ = attend(*batch)
    error = linformer(*batch, *weights) - exact
    return jnp.mean(error**2) / jnp.mean(exact**2)

  def update(carry, key):
    weights, state = carry
    batch = sequences(key, b, BATCH, setting)
    value, gradient = jax.value_and_grad(loss)(weights, batch)
    change, state = optimizer.update(gradient, state)
    return (optax.apply_updates(weights, change), state), value

  carry = (weights, optimizer.init(weights))
  (weights, _), losses = jax.lax.scan(
    update, carry, jax.random.split(data, STEPS)
  )
  return weights, losses


def mean_pool(setting: settings.Setting):
  """Returns E [k, n] that averages windows of n / k positions."""
  window = setting.n // setting.k
  return jnp.repeat(jnp.eye(setting.k), window, axis=1) / window


def outputs(key, batch, fitted, setting: settings.Setting) -> dict:
  """Returns each method's output, [draws of R, sequences, rows, d]."""
  q, k, v = batch

  def random(key):
    r = draws.projection(key, setting.k, setting.n)
    e, f = setting.delta * r, jnp.exp(-setting.delta) * r
    p = jax.nn.softmax(q @ k.swapaxes(1, 2) / setting.d**0.5)
    return linformer(q, k, v, e, f), (p @ r.T) @ (r @ v)

  construction, plain = jax.lax.map(random, jax.random.split(key, RANDOM))
  pool = mean_pool(setting)
  exact, _ = attend(q, k, v)
  return {
    "fitted": linformer(q, k, v, *fitted)[None],
    "mean_pool": linformer(q, k, v, pool, pool)[None],
    "construction": construction,
    "plain": plain,
    "mean": jnp.broadcast_to(v.mean(1, keepdims=True), exact.shape)[None],
    "zero": jnp.zeros_like(exact)[None],
  }


@functools.partial(jax.jit, static_argnames=("setting",))
def _errors(key, setting):
  keys = jax.random.split(key, 4)
  b = basis(keys[0], setting)
  fitted, losses = fit(keys[1], b, setting)
  batch = sequences(keys[2], b, HELD_OUT, setting)
  exact, row_norms = attend(*batch)
  value_norms = jnp.linalg.norm(batch[2], axis=(1, 2))
  unit = row_norms * value_norms[:, None]
  found = {}
  for name, out in outputs(keys[3], batch, fitted, setting).items():
    rows = jnp.linalg.norm(out - exact, axis=-1) / unit
    each = jax.vmap(relative_error, (0, None))(out, exact)
    found[name] = jnp.mean(each), jnp.median(rows)
  # The loss at the end, and a tenth of the updates earlier.
  tenth = STEPS // 10
  ends = losses[-2 * tenth : -tenth].mean(), losses[-tenth:].mean()
  return found, ends


def measure(setting: settings.Setting, seed: int = 0) -> dict:
  """Returns the errors of each method on held-out sequences.

  Returns:
    relative: by method, |out - exact| / |exact| over all sequences.
    theorem: by method, the median row's error in the unit of theorem 2.
    training: `relative` of the fit on its last two tenths of updates.
    steps: the number of updates.
  """
  found, ends = _errors(jax.random.key(seed), setting)
  return {
    "relative": {name: float(f"{x:.5g}") for name, (x, _) in found.items()},
    "theorem": {name: float(f"{x:.5g}") for name, (_, x) in found.items()},
    "training": [float(f"{x**0.5:.5g}") for x in ends],
    "steps": STEPS,
  }

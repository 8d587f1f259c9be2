"""Compares E and F fitted to a source of sequences with the theorem's."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments.theorems import draws, minilm, settings

RANK = 16  # of keys and values over positions, if the source has structure
NOISE = 0.3  # standard deviation; that of the structure is 1
QUERIES = 64  # per sequence to fit on; held-out sequences have all n
BATCH = 16  # sequences
STEPS = 300
# The peak, by start: 5% warmup and cosine decay to zero. At 3e-3 the mean pool
# is left too fast: MiniLM's fits then end worse than they start.
RATES = {"fitted": 3e-3, "fitted_pool": 1e-3}
HELD_OUT = 32  # sequences; as many tell whether the fit beats its start
RANDOM = 8  # draws of R to average an error over


def basis(key, setting: settings.Setting):
  """Returns a source's B [n, RANK], with entries of variance about 1/RANK."""
  if setting.values == "low_rank":
    return jax.random.normal(key, (setting.n, RANK)) / RANK**0.5
  positions = (jnp.arange(setting.n) + 0.5) / setting.n
  waves = jnp.cos(jnp.pi * positions[:, None] * jnp.arange(RANK))
  scale = jnp.where(jnp.arange(RANK) == 0, 1, 2**0.5)
  return waves * scale / RANK**0.5


def sequences(key, b, number: int, queries: int, setting: settings.Setting):
  """Draws queries, keys and values from the source `setting.values`.

  In 'gaussian', positions are independent, so E has nothing to learn. In
  'low_rank' and 'smooth', keys and values are B C + noise, with B fixed and C
  drawn for each sequence, scaled to variance 1.

  Args:
    key: of the draw.
    b: as returned by `basis`; of MiniLM, heads to draw from.
    number: of sequences.
    queries: of each sequence.
    setting: names the source.

  Returns:
    q [number, queries, d], times the scale of scores; k and v [number, n, d].
  """
  if minilm.layer_of(setting.values) is not None:
    return minilm.draw(key, b, number, queries)
  keys = jax.random.split(key, 5)
  q = jax.random.normal(keys[0], (number, queries, setting.d))
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


def fit(key, start, rate, sources, setting: settings.Setting):
  """Fits E and F to least mean squared error, by Adam on drawn sequences.

  Returns the start if the updates do not improve on it for other sequences:
  Adam moves every entry, and 300 updates may not undo that.

  Args:
    key: of the sequences.
    start: the first E and F [2, k, n].
    rate: the peak of the learning rate.
    sources: of sequences to choose between the fit and its start, and to fit
      on, each as `b` of `sequences`.
    setting: the source.

  Returns:
    E and F [2, k, n], and the loss of each update over the mean square of the
    target.
  """
  other, seen = sources
  schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, STEPS // 20, STEPS)
  optimizer = optax.adam(schedule)

  def loss(weights, batch):
    exact, _ = attend(*batch)
    error = linformer(*batch, *weights) - exact
    return jnp.mean(error**2) / jnp.mean(exact**2)

  def update(carry, key):
    weights, state = carry
    batch = sequences(key, seen, BATCH, QUERIES, setting)
    value, gradient = jax.value_and_grad(loss)(weights, batch)
    change, state = optimizer.update(gradient, state)
    return (optax.apply_updates(weights, rate * change), state), value

  carry = (start, optimizer.init(start))
  keys = jax.random.split(key, STEPS + 1)
  (weights, _), losses = jax.lax.scan(update, carry, keys[1:])
  batch = sequences(keys[0], other, HELD_OUT, setting.n, setting)
  better = loss(weights, batch) < loss(start, batch)
  return jnp.where(better, weights, start), losses


def mean_pool(setting: settings.Setting):
  """Returns E [k, n] that averages windows of n / k positions."""
  window = setting.n // setting.k
  return jnp.repeat(jnp.eye(setting.k), window, axis=1) / window


def starts(key, setting: settings.Setting) -> dict:
  """Returns the first E and F [2, k, n] of each fit."""
  shape = (2, setting.k, setting.n)
  return {
    "fitted": jax.random.normal(key, shape) / setting.n**0.5,
    "fitted_pool": jnp.stack(2 * [mean_pool(setting)]),
  }


def value_root(b, setting: settings.Setting):
  """Returns the Cholesky factor of the covariance of values over positions.

  None stands for the identity, and for MiniLM, where it is not known.
  """
  if setting.values not in ("low_rank", "smooth"):
    return None
  noise = NOISE**2 * jnp.eye(setting.n)
  return jnp.linalg.cholesky((b @ b.T + noise) / (1 + NOISE**2))


def outputs(key, b, batch, fitted: dict, setting: settings.Setting) -> dict:
  """Returns each method's output, [draws of R, sequences, rows, d]."""
  q, k, v = batch
  p = jax.nn.softmax(q @ k.swapaxes(1, 2) / setting.d**0.5)

  def random(key):
    r = draws.projection(key, setting.k, setting.n)
    e, f = setting.delta * r, jnp.exp(-setting.delta) * r
    return linformer(q, k, v, e, f), (p @ r.T) @ (r @ v)

  construction, plain = jax.lax.map(random, jax.random.split(key, RANDOM))
  pairs = fitted | {"mean_pool": 2 * [mean_pool(setting)]}
  found = {name: linformer(q, k, v, *pair) for name, pair in pairs.items()}
  root = value_root(b, setting)
  found["best_rank"] = jax.lax.map(
    lambda pair: draws.best_product(*pair, setting.k, root), (p, v)
  )
  found["mean"] = jnp.broadcast_to(v.mean(1, keepdims=True), q.shape)
  found["zero"] = jnp.zeros_like(q)
  found = {name: out[None] for name, out in found.items()}
  return found | {"construction": construction, "plain": plain}


@functools.partial(jax.jit, static_argnames=("setting",))
def _errors(key, setting, heads):
  keys = jax.random.split(key, 5)
  held, *sources = heads or 3 * [basis(keys[0], setting)]
  begin = starts(keys[1], setting)
  fits, losses = jax.lax.map(
    lambda pair: fit(keys[4], *pair, sources, setting),
    (
      jnp.stack(list(begin.values())),
      jnp.array([RATES[name] for name in begin]),
    ),
  )
  fitted = dict(zip(begin, fits, strict=True))
  batch = sequences(keys[2], held, HELD_OUT, setting.n, setting)
  exact, row_norms = attend(*batch)
  value_norms = jnp.linalg.norm(batch[2], axis=(1, 2))
  unit = row_norms * value_norms[:, None]
  found = {}
  for name, out in outputs(keys[3], held, batch, fitted, setting).items():
    rows = jnp.linalg.norm(out - exact, axis=-1) / unit
    each = jax.vmap(relative_error, (0, None))(out, exact)
    found[name] = jnp.mean(each), jnp.median(rows)
  # The loss at the end, and a tenth of the updates earlier.
  tenth = STEPS // 10
  ends = losses[:, -2 * tenth : -tenth], losses[:, -tenth:]
  training = jnp.stack([part.mean(1) for part in ends], axis=1)
  return found, dict(zip(begin, training, strict=True))


def measure(setting: settings.Setting, heads=None, seed: int = 0) -> dict:
  """Returns the errors of each method on held-out sequences.

  Args:
    setting: what to measure.
    heads: of MiniLM, for each of `minilm.PARTS`; None for random inputs.
    seed: of all draws.

  Returns:
    relative: by method, |out - exact| / |exact| over all sequences.
    theorem: by method, the median row's error in the unit of theorem 2.
    training: by fit, `relative` on its last two tenths of updates.
    steps: the number of updates.
  """
  found, training = _errors(jax.random.key(seed), setting, heads)
  return {
    "relative": {name: float(f"{x:.5g}") for name, (x, _) in found.items()},
    "theorem": {name: float(f"{x:.5g}") for name, (_, x) in found.items()},
    "training": {
      name: [float(f"{x**0.5:.5g}") for x in ends]
      for name, ends in training.items()
    },
    "steps": STEPS,
  }

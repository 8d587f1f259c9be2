"""Times several functions, such as updates of configs, in turns."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from linformer_jax import step
from linformer_jax.parallel import sharding

ROUNDS = 15


def _updater(config):
  """Returns a function that makes an update and returns its seconds, and bytes.

  Returns:
    (function, bytes of the compiled update beside its arguments).
  """
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  state = steps.init()
  drawn = jax.random.key(0)
  most = min(config.model.max_length // 2, config.model.vocab_size)

  def draw(field):
    if jnp.issubdtype(field.dtype, jnp.integer):
      return jax.random.randint(drawn, field.shape, 0, most, field.dtype)
    return jnp.ones(field.shape, field.dtype)

  batch = jax.tree.map(draw, steps.abstract_batch)
  compiled = steps.train.lower(state, batch).compile()

  def update() -> float:
    nonlocal state  # It is donated.
    start = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, batch))
    return time.perf_counter() - start

  return update, compiled.memory_analysis().temp_size_in_bytes


def in_turns(configs: dict) -> dict[str, dict]:
  """Times updates without input; each round has one of every config.

  Returns:
    'seconds', of each of `ROUNDS` updates by name; 'bytes', the temporary
    memory of an update by name.
  """
  updaters = {name: _updater(config) for name, config in configs.items()}
  seconds = rounds(
    {name: update for name, (update, _) in updaters.items()}, ROUNDS
  )
  sizes = {name: size for name, (_, size) in updaters.items()}
  return {"seconds": seconds, "bytes": sizes}


def rounds(functions: dict[str, Callable[[], float]], count: int):
  """Calls functions in turns; returns the seconds that each call returned.

  Args:
    functions: each does something and returns its seconds.
    count: rounds, after one that warms up.

  Returns:
    dict of lists of floats.
  """
  seconds = {name: [] for name in functions}
  for done in range(count + 1):
    for name, function in functions.items():
      taken = function()
      if done:
        seconds[name].append(round(taken, 6))
  return seconds


def timed(function: Callable, *arguments) -> float:
  """Returns the seconds until a function's result is there."""
  start = time.perf_counter()
  jax.block_until_ready(function(*arguments))
  return time.perf_counter() - start


def ratio(
  seconds: dict[str, list[float]], name: str, base: str = "softmax"
) -> tuple[float, float, float]:
  """Returns a config's time over another's, round by round: median, quartiles.

  Returns:
    (median, first quartile, third quartile).
  """
  found = [
    own / other for own, other in zip(seconds[name], seconds[base], strict=True)
  ]
  low, middle, high = statistics.quantiles(found, n=4)
  return middle, low, high

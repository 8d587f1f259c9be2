"""Time a compiled function honestly, and say on what it ran."""

import importlib.metadata
import math
import os
import pathlib
import platform
import subprocess
import time

import jax
import jax.numpy as jnp


def seconds(
  function, *arguments, repeats: int = 10, budget: float = math.inf
) -> list[float]:
  """Seconds of synchronised calls, sorted, the first one left out.

  Args:
    function: called with the arguments; its arrays are waited for.
    *arguments: of the function.
    repeats: calls that count.
    budget: seconds to spend, so that fewer calls may have to do: three where
      the first took less than half of it, one where it took less than all, and
      else the first one itself.
  """

  def once():
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start

  first = once()
  if first > budget:
    return [first]
  least = 3 if first < budget / 2 else 1
  times = []
  while len(times) < repeats:
    if len(times) >= min(least, repeats) and first + sum(times) > budget:
      break
    times.append(once())
  return sorted(times)


def matrix_product_rate(
  rows: int = 1024, inner: int = 512, columns: int = 1024, dtype="float32"
) -> float:
  """FLOP/s of one plain matrix product on the default device.

  Args:
    rows, inner, columns: of the product [rows, inner] x [inner, columns].
    dtype: of both factors.

  Returns:
    2 * rows * inner * columns over the fastest of thirty synchronised calls on
    random inputs: the most that this machine gave, as a yardstick where no peak
    is published.
  """
  keys = jax.random.split(jax.random.key(0))
  a = jax.random.normal(keys[0], (rows, inner), dtype)
  b = jax.random.normal(keys[1], (inner, columns), dtype)
  fastest = seconds(jax.jit(jnp.matmul), a, b, repeats=30)[0]
  return 2 * rows * inner * columns / fastest


def environment() -> dict[str, str | int]:
  """What a measurement depends on: devices, host, versions, commit."""
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "host": f"{platform.machine()}, {_cores()} cores",
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in names},
    "commit": _commit(),
  }


def _cores() -> str:
  """How many cores there are, and how many this process may use, if fewer."""
  cores = os.cpu_count()
  if hasattr(os, "sched_getaffinity"):
    allowed = len(os.sched_getaffinity(0))
    if allowed < cores:
      return f"{allowed} of {cores}"
  return str(cores)


def _commit() -> str:
  """The commit of this checkout, '+' where files differ from it."""
  folder = pathlib.Path(__file__).parent
  command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return "unknown"  # installed as a package, or no git here
  return done.stdout.strip()

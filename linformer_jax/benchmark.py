"""Time a compiled function honestly, and say on what it ran."""

import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
import time

import jax
import jax.numpy as jnp


def seconds(function, *arguments, repeats: int = 10) -> float:
  """Median seconds of a synchronised call, after one that is not counted."""
  jax.block_until_ready(function(*arguments))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def matrix_product_rate(
  rows: int = 2048, inner: int = 512, columns: int = 2048, dtype="float32"
) -> float:
  """FLOP/s of one plain matrix product on the default device.

  Args:
    rows, inner, columns: of the product [rows, inner] x [inner, columns].
    dtype: of both factors.

  Returns:
    2 * rows * inner * columns over the median of ten synchronised calls on
    random inputs: what matrix products reach on this machine, as a yardstick
    where no peak is published.
  """
  keys = jax.random.split(jax.random.key(0))
  a = jax.random.normal(keys[0], (rows, inner), dtype)
  b = jax.random.normal(keys[1], (inner, columns), dtype)
  spent = seconds(jax.jit(jnp.matmul), a, b, repeats=10)
  return 2 * rows * inner * columns / spent


def environment() -> dict[str, str | int]:
  """What a measurement depends on: devices, host, versions, commit."""
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "host": f"{platform.machine()}, {os.cpu_count()} cores",
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in names},
    "commit": _commit(),
  }


def _commit() -> str:
  """The commit of this checkout, '+' where files differ from it."""
  folder = pathlib.Path(__file__).parent
  command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return "unknown"  # installed as a package, or no git here
  return done.stdout.strip()

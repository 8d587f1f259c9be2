"""Times compiled functions and records the environment they ran in."""

import importlib.metadata
import math
import os
import pathlib
import platform
import re
import subprocess
import time

import jax
import jax.numpy as jnp


def seconds(
  function, *arguments, repeats: int = 10, budget: float = math.inf
) -> list[float]:
  """Returns the sorted seconds of synchronized calls, without the first.

  Args:
    function: called with the arguments; its outputs are blocked on.
    *arguments: arguments of the function.
    repeats: timed calls.
    budget: seconds to spend. If they run out, at least three calls are timed
      if the first took less than half of the budget, and at least one if it
      took less than all of it; otherwise the first call itself is returned.
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
  """Measures FLOP/s of one plain matrix product on the default device.

  Args:
    rows, inner, columns: sizes of [rows, inner] x [inner, columns].
    dtype: dtype of both factors.

  Returns:
    2 * rows * inner * columns over the fastest of thirty synchronized calls on
    random inputs, as a peak for devices without a published one.
  """
  keys = jax.random.split(jax.random.key(0))
  a = jax.random.normal(keys[0], (rows, inner), dtype)
  b = jax.random.normal(keys[1], (inner, columns), dtype)
  fastest = seconds(jax.jit(jnp.matmul), a, b, repeats=30)[0]
  return 2 * rows * inner * columns / fastest


def environment() -> dict[str, str | int | float]:
  """Returns what a measurement depends on: devices, host, versions, commit."""
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "host": f"{platform.machine()}, {_cores()} cores",
    "cpu": _cpu_model(),
    "memory_gib": round(
      os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
    ),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in names},
    "commit": _commit(),
  }


def _cpu_model() -> str:
  """Returns the name of the processor, or its architecture."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    return platform.machine()
  found = re.search(r"model name\s*: (.*)", text)
  return found[1] if found else platform.machine()


def _cores() -> str:
  """Returns the number of cores, and how many of them this process may use."""
  cores = os.cpu_count()
  if hasattr(os, "sched_getaffinity"):
    allowed = len(os.sched_getaffinity(0))
    if allowed < cores:
      return f"{allowed} of {cores}"
  return str(cores)


def _commit() -> str:
  """Returns the commit of this checkout, with '+' if files differ from it."""
  folder = pathlib.Path(__file__).parent
  command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return "unknown"  # installed as a package, or git is missing
  return done.stdout.strip()

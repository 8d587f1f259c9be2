"""Time a compiled function honestly."""

import statistics
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
    2 * rows * inner * columns over the median of twenty synchronised calls on
    random inputs: what matrix products reach on this machine, as a yardstick
    where no peak is published.
  """
  keys = jax.random.split(jax.random.key(0))
  a = jax.random.normal(keys[0], (rows, inner), dtype)
  b = jax.random.normal(keys[1], (inner, columns), dtype)
  spent = seconds(jax.jit(jnp.matmul), a, b, repeats=20)
  return 2 * rows * inner * columns / spent

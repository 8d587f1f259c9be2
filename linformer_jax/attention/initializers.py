"""Initializers of E and F, and of convolution kernels.

A random E makes it harder for a head to learn to attend by position, since
every slot mixes all rows. Two initializers keep neighbors together; both are
then trained like any other:

* Window means. E averages windows of N / K neighbors. If each head has its own
  E, windows are shifted from head to head.
* Strided E. E_h of head h picks every (N / K)-th row, starting at row h mod
  (N / K). Each head sees its rows unmixed; together the heads see every row.

Convolution kernels have both as well, channel by channel, on the windows of the
convolution's stride.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def _noisy(values, std: float) -> nn.initializers.Initializer:
  """Returns an initializer of values(shape) plus N(0, std^2) noise."""

  def init(key, shape, dtype=jnp.float32):
    noise = std * jax.random.normal(key, shape, dtype)
    return jnp.asarray(values(shape).reshape(shape), dtype) + noise

  return init


def strided(std: float) -> nn.initializers.Initializer:
  """E [H, K, N] or [K, N] picks every (N / K)-th row, plus N(0, std^2)."""

  def picks(shape):
    *heads, k, n = shape
    window = n // k
    start = np.arange(heads[0] if heads else 1)[:, None] % window
    picked = np.arange(k)[None] * window + start  # [H, K]
    return np.arange(n) == picked[..., None]

  return _noisy(picks, std)


def window_mean(std: float) -> nn.initializers.Initializer:
  """E [H, K, N] or [K, N] averages N / K neighbors, plus N(0, std^2).

  Windows of head h begin h N / (K H) rows earlier, so heads mix different rows;
  its first window is shorter by that much and its last is longer.
  """

  def means(shape):
    *heads, k, n = shape
    count = heads[0] if heads else 1
    earlier = np.arange(count)[:, None] * n // (k * count)
    slot = np.minimum((np.arange(n) + earlier) * k // n, k - 1)  # [H, N]
    window = slot[:, None] == np.arange(k)[:, None]
    return window / window.sum(2, keepdims=True)

  return _noisy(means, std)


def _by_channel(row_weights, std):
  """Kernel [..., W, D, D] with one weight per head and row, plus N(0, std^2).

  Args:
    row_weights: (H, W) -> weights [H, W].
    std: std of the noise.
  """

  def kernel(shape):
    *heads, window, width, _ = shape
    rows = row_weights(heads[0] if heads else 1, window)
    return rows[..., None, None] * np.eye(width)

  return _noisy(kernel, std)


def mean_kernel(std: float) -> nn.initializers.Initializer:
  """Kernel [H, W, D, D] or [W, D, D]: the mean of W rows, plus N(0, std^2)."""
  return _by_channel(lambda h, w: np.full((h, w), 1 / w), std)


def strided_kernel(std: float) -> nn.initializers.Initializer:
  """Kernel [H, W, D, D] or [W, D, D]: row h mod W, plus N(0, std^2)."""
  return _by_channel(lambda h, w: np.eye(w)[np.arange(h) % w], std)


# Name -> initializer of E [..., K, N], given the std of its noise.
DENSE = {
  "normal": nn.initializers.normal,
  "mean_pool": window_mean,
  "strided": strided,
}
# Likewise for convolution kernels [..., W, D, D]; None is fan-in scaling.
KERNELS = {
  "normal": lambda std: None,
  "mean_pool": mean_kernel,
  "strided": strided_kernel,
}

"""Starting values with which attention sees neighbours from the first update.

From random starts a masked language model tends to stay for long on a plateau
near word frequencies, until some head happens upon attending by position; a
random E makes that harder, as every slot mixes all positions. Three starts are
meant to end that, and are learned from there like any other:

* Neighbour heads. The last `position_dims` features of the embeddings are left
  to positions: pairs (cos w i, sin w i) of linearly spaced frequencies w. The
  query kernel of head h starts by reading them, the key kernel by reading them
  turned by w * offset_h, so that the score of i and j is a sum of
  cos(w (i + offset_h - j)), largest at j = i + offset_h.
* Window means. E starts as means of N / K neighbours; where each head has an E,
  over windows that are shifted from head to head.
* Strided E. Head h's E_h starts by picking every (N / K)-th row, from row h mod
  (N / K) on: each head sees its rows unmixed, the heads together see all.

The kernels of a convolution have the last two starts, too, channel by channel;
their windows are those of its stride.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def scaled(
  init: nn.initializers.Initializer, scale: float
) -> nn.initializers.Initializer:
  """What `init` gives, times a number."""
  return lambda *arguments: scale * init(*arguments)


def _noisy(values, std: float) -> nn.initializers.Initializer:
  """What `values` gives for a shape, plus N(0, std)."""

  def init(key, shape, dtype=jnp.float32):
    noise = std * jax.random.normal(key, shape, dtype)
    return jnp.asarray(values(shape).reshape(shape), dtype) + noise

  return init


def strided(std: float) -> nn.initializers.Initializer:
  """E [H, K, N] (or [K, N]) that picks every (N / K)-th row, plus N(0, std)."""

  def picks(shape):
    *heads, k, n = shape
    window = n // k
    start = np.arange(heads[0] if heads else 1)[:, None] % window
    picked = np.arange(k)[None] * window + start  # [H, K]
    return np.arange(n) == picked[..., None]

  return _noisy(picks, std)


def window_mean(std: float) -> nn.initializers.Initializer:
  """E [H, K, N] (or [K, N]) of means over N / K neighbours, plus N(0, std).

  Windows of head h begin h N / (K H) rows earlier, so that heads mix different
  rows; its first one is shorter by as much, and its last longer.
  """

  def means(shape):
    *heads, k, n = shape
    count = heads[0] if heads else 1
    earlier = np.arange(count)[:, None] * n // (k * count)
    slot = np.minimum((np.arange(n) + earlier) * k // n, k - 1)  # [H, N]
    window = slot[:, None] == np.arange(k)[:, None]
    return window / window.sum(2, keepdims=True)

  return _noisy(means, std)


def _by_channel(chosen, std):
  """Kernel [..., W, D, D] of a weight a row and head, plus N(0, std).

  Args:
    chosen: (H, W) -> the weights [H, W].
    std: spread of the noise.
  """

  def kernel(shape):
    *heads, window, width, _ = shape
    rows = chosen(heads[0] if heads else 1, window)
    return rows[..., None, None] * np.eye(width)

  return _noisy(kernel, std)


def mean_kernel(std: float) -> nn.initializers.Initializer:
  """Kernel [H, W, D, D] (or [W, D, D]): the mean of W rows, plus N(0, std)."""
  return _by_channel(lambda h, w: np.full((h, w), 1 / w), std)


def strided_kernel(std: float) -> nn.initializers.Initializer:
  """Kernel [H, W, D, D] (or [W, D, D]): row h mod W, plus N(0, std)."""
  return _by_channel(lambda h, w: np.eye(w)[np.arange(h) % w], std)


def frequencies(position_dims: int) -> np.ndarray:
  """w in radians a position, linear up to a quarter turn: float [dims / 2]."""
  count = position_dims // 2
  return np.pi / 2 * (np.arange(count) + 0.5) / count


def waves(length: int, position_dims: int) -> np.ndarray:
  """cos and sin of w i, in pairs: float [length, position_dims]."""
  angles = np.arange(length)[:, None] * frequencies(position_dims)
  pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  return pairs.reshape(length, position_dims)


def sinusoidal(std: float) -> nn.initializers.Initializer:
  """Positions [N, M] of Vaswani et al. 2017, with standard deviation `std`."""

  def init(key, shape, dtype=jnp.float32):
    del key
    rows, width = shape
    half = (width + 1) // 2
    rates = 10000.0 ** (-np.arange(half) / half)
    angles = np.arange(rows)[:, None] * rates[None]
    values = np.concatenate([np.sin(angles), np.cos(angles)], -1)[:, :width]
    return jnp.asarray(values * std * np.sqrt(2), dtype)

  return init


def positions_apart(
  std: float, position_dims: int
) -> nn.initializers.Initializer:
  """Positions [N, M]: `waves` in the last features, zero in the others."""

  def init(key, shape, dtype=jnp.float32):
    del key
    values = np.zeros(shape)
    values[:, -position_dims:] = waves(shape[0], position_dims) * np.sqrt(2)
    return jnp.asarray(values * std, dtype)

  return init


def tokens_apart(std: float, position_dims: int) -> nn.initializers.Initializer:
  """Tokens [V, M]: N(0, std), zero in the features left to positions."""

  def init(key, shape, dtype=jnp.float32):
    values = std * jax.random.normal(key, shape, dtype)
    return values.at[:, -position_dims:].set(0)

  return init


def head_offsets(num_heads: int, window: int) -> np.ndarray:
  """Where each head looks: -1, 1, -2, 2, ..., each for `window` heads.

  With a strided E it takes `window` heads to see every row at one offset.
  """
  order = np.arange(num_heads) // window
  return (order // 2 + 1) * np.where(order % 2, 1, -1)


def neighbour_heads(
  offsets: np.ndarray,
  position_dims: int,
  gain: float,
  noise: nn.initializers.Initializer,
) -> nn.initializers.Initializer:
  """A query (offsets 0) or key kernel [M, H * D] that reads turned positions.

  Args:
    offsets: int [H], how far to the right of a query the matching key is.
    position_dims: how many of the last features are positions.
    gain: of the positions read.
    noise: initializer of the rest of the kernel.
  """
  rates = frequencies(position_dims)

  def init(key, shape, dtype=jnp.float32):
    width, features = shape
    head_dim = features // len(offsets)
    kernel = np.zeros((width, len(offsets), head_dim))
    pairs = min(head_dim, position_dims) // 2
    stride = len(rates) // pairs
    for head, offset in enumerate(offsets):
      # Heads share out the frequencies where a head cannot hold them all.
      chosen = np.arange(pairs) * stride + head % stride
      cos, sin = np.cos(rates[chosen] * offset), np.sin(rates[chosen] * offset)
      row = width - position_dims + 2 * chosen
      column = 2 * np.arange(pairs)
      # A key at j reads the angle w (j - offset).
      kernel[row, head, column] = gain * cos
      kernel[row + 1, head, column] = gain * sin
      kernel[row, head, column + 1] = -gain * sin
      kernel[row + 1, head, column + 1] = gain * cos
    return jnp.asarray(kernel.reshape(shape), dtype) + noise(key, shape, dtype)

  return init

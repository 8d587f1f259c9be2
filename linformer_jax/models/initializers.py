"""Initializers with which attention sees neighbors from the first update.

From random initial values a masked language model stays long on a plateau near
the loss of token frequencies, until some head learns to attend by position.
Neighbor heads shorten the plateau; they are trained like any other. The last
`position_dims` features of the embeddings encode positions as pairs
(cos w i, sin w i) with frequencies w below pi / 2. The query kernel of head h
reads them, and its key kernel reads them rotated by w * offset_h, so the score
of i and j is a sum of cos(w (i + offset_h - j)), largest at j = i + offset_h.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def scaled(
  init: nn.initializers.Initializer, scale: float
) -> nn.initializers.Initializer:
  """Scales an initializer."""
  return lambda *arguments: scale * init(*arguments)


def frequencies(position_dims: int, head_dim: int, length: int) -> np.ndarray:
  """Returns w in radians per position, rising in (0, pi / 2).

  Linear spacing repeats itself: the c frequencies that a head holds have a
  period of 8 c rows, and rows a period apart would look alike. So a longer
  sequence has powers of 3/2 of linear steps, which have no common period.

  Args:
    position_dims: features that encode positions.
    head_dim: features of a head's queries and keys.
    length: N.

  Returns:
    float [position_dims / 2].
  """
  count = position_dims // 2
  steps = (np.arange(count) + 0.5) / count
  period = 8 * (min(head_dim, position_dims) // 2)
  return np.pi / 2 * (steps if length <= period else steps**1.5)


def waves(length: int, rates: np.ndarray) -> np.ndarray:
  """Pairs (cos w i, sin w i): float [length, 2 * len(rates)]."""
  angles = np.arange(length)[:, None] * rates
  pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  return pairs.reshape(length, 2 * len(rates))


def sinusoidal(std: float) -> nn.initializers.Initializer:
  """Sinusoidal positions [N, M] (Vaswani et al. 2017), scaled to `std`."""

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
  std: float, rates: np.ndarray
) -> nn.initializers.Initializer:
  """Positions [N, M]: `waves` in the last features, else 0."""

  def init(key, shape, dtype=jnp.float32):
    del key
    values = np.zeros(shape)
    values[:, -2 * len(rates) :] = waves(shape[0], rates) * np.sqrt(2)
    return jnp.asarray(values * std, dtype)

  return init


def tokens_apart(std: float, position_dims: int) -> nn.initializers.Initializer:
  """Tokens [V, M]: N(0, std^2), but 0 in the features that encode positions."""

  def init(key, shape, dtype=jnp.float32):
    values = std * jax.random.normal(key, shape, dtype)
    return values.at[:, -position_dims:].set(0)

  return init


def head_offsets(
  num_heads: int, window: int, causal: bool = False
) -> np.ndarray:
  """Returns each head's offset: -1, 1, -2, 2, ..., each for `window` heads.

  With a strided E, `window` heads together see every row at one offset. Causal
  heads see no row on the right, so theirs are -1, -2, ...
  """
  order = np.arange(num_heads) // window
  if causal:
    return -1 - order
  return (order // 2 + 1) * np.where(order % 2, 1, -1)


def neighbour_heads(
  offsets: np.ndarray,
  rates: np.ndarray,
  gain: float,
  noise: nn.initializers.Initializer,
) -> nn.initializers.Initializer:
  """Query (offsets 0) or key kernel [M, H * D] that rotates positions.

  Args:
    offsets: int [H], distance from a query to its matching key on the right.
    rates: the `frequencies` of the last 2 * len(rates) features.
    gain: gain on the position features.
    noise: initializer that is added to the kernel.
  """
  position_dims = 2 * len(rates)

  def init(key, shape, dtype=jnp.float32):
    width, features = shape
    head_dim = features // len(offsets)
    kernel = np.zeros((width, len(offsets), head_dim))
    pairs = min(head_dim, position_dims) // 2
    stride = len(rates) // pairs
    for head, offset in enumerate(offsets):
      # If a head cannot hold all frequencies, heads divide them.
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

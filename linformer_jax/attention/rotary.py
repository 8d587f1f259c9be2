"""Rotary positions: queries and keys that are rotated by their position.

Su et al. 2021, arXiv 2104.09864: a product of a query at i and a key at j then
depends on i - j alone, so positions beyond those of training have a meaning.
"""

import jax.numpy as jnp

BASE = 10_000.0


def rotate(x, start=0):
  """Rotates pairs of features (d, d + D / 2) by angles i / BASE^(2 d / D).

  Args:
    x: queries or keys [B, N, H, D], D even.
    start: the position i of the first row, int or int [B].

  Returns:
    [B, N, H, D] in x's dtype; angles are float32.
  """
  half = x.shape[-1] // 2
  rates = BASE ** (-jnp.arange(half) / half)
  rows = jnp.asarray(start)[..., None] + jnp.arange(x.shape[1])
  angles = rows[..., None, None] * rates  # [N, 1, D / 2], or with a leading B
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)

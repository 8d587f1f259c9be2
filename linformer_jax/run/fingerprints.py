"""Fingerprints of trees of arrays, which do not depend on the sharding."""

import jax
import jax.numpy as jnp
import numpy as np


def _leaf_fingerprint(x):
  """Returns the position-weighted sum of an array's bits, modulo 2^32.

  An integer sum does not depend on its order, and so not on the sharding.
  """
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  # Eight-byte values (jax_enable_x64) become two numbers.
  width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
  bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
  # The index in the flat array, computed without flattening, which would
  # gather a sharded array.
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    place = place * np.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, bits.shape, axis
    )
  # Odd weights are invertible modulo 2^32, so one changed value is detected.
  return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


@jax.jit
def _fingerprints(state):
  return jnp.stack([_leaf_fingerprint(leaf) for leaf in jax.tree.leaves(state)])


def fingerprint(state) -> list[int]:
  """Returns an integer per leaf that does not depend on the sharding."""
  return jax.device_get(_fingerprints(state)).tolist()

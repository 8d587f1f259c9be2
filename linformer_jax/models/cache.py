"""What a causal encoder keeps of rows before the next ones, to generate."""

import itertools
import math

import jax
import jax.numpy as jnp

from linformer_jax.models.config import ModelConfig


def init_cache(config: ModelConfig, batch: int, length: int):
  """Returns what a causal encoder keeps of sequences before their first row.

  Args:
    config: the model.
    batch: B.
    length: the most rows of a sequence.

  Raises:
    ValueError: if an attention has no cache.
  """
  groups = []
  for kind, run in itertools.groupby(config.layers):
    depth = len(list(run))
    one = kind.init_cache(config.sizes(kind, causal=True), length)
    axes = (depth, batch) if config.scan_layers else (batch,)

    def repeat(x, axes=axes):
      return jnp.zeros((*axes, *x.shape), x.dtype)

    copies = 1 if config.scan_layers else depth
    groups += [jax.tree.map(repeat, one) for _ in range(copies)]
  return groups


def extend_block(config: ModelConfig) -> int:
  """Returns rows between which a call of `extend` begins and ends, or 0."""
  return math.gcd(*(kind.extend_block for kind in config.layers))

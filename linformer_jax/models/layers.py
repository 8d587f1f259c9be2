"""Parameters of layers one by one, and stacked as an `nn.scan` has them."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_STACKED, _SINGLE = re.compile(r"layers_(\d+)"), re.compile(r"layer_(\d+)")


def _numbered(tree: Mapping, pattern: re.Pattern) -> list[str]:
  """Returns the keys that match a pattern, by their number."""
  found = [name for name in tree if pattern.fullmatch(name)]
  return sorted(found, key=lambda name: int(pattern.fullmatch(name)[1]))


def unstack(tree: Any) -> Any:
  """Replaces stacks layers_0, ... [L, ...] by layer_0, ..., at any depth.

  Args:
    tree: nested dicts of arrays, such as variables of a model with scanned
      layers; others are returned as they are.
  """
  if not isinstance(tree, Mapping):
    return tree
  stacks = _numbered(tree, _STACKED)
  found = {
    name: unstack(value) for name, value in tree.items() if name not in stacks
  }
  layers = []
  for name in stacks:
    depth = jax.tree.leaves(tree[name])[0].shape[0]
    layers += [
      jax.tree.map(lambda x, i=i: x[i], tree[name]) for i in range(depth)
    ]
  return found | {f"layer_{i}": layer for i, layer in enumerate(layers)}


def stack(tree: Any, kinds: tuple) -> Any:
  """Undoes `unstack`; stacks of NumPy arrays stay on the host.

  Args:
    tree: nested dicts of arrays.
    kinds: the attention of each layer, `ModelConfig.layers`: neighbors that
      are equal form a stack.
  """
  if not isinstance(tree, Mapping):
    return tree
  names = _numbered(tree, _SINGLE)
  found = {
    name: stack(value, kinds)
    for name, value in tree.items()
    if name not in names
  }
  if not names:
    return found
  left = iter(names)
  for i, (_, run) in enumerate(itertools.groupby(kinds)):
    layers = [tree[name] for name in itertools.islice(left, len(list(run)))]
    found[f"layers_{i}"] = jax.tree.map(_joined, *layers)
  return found


def _joined(*leaves):
  on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
  return (np if on_host else jnp).stack(leaves)

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


def _depths(tree: Any) -> dict[str, int]:
  """Returns the layers of each stack of a tree, by its name."""
  found = {}
  if isinstance(tree, Mapping):
    for name, value in tree.items():
      if _STACKED.fullmatch(name):
        found[name] = jax.tree.leaves(value)[0].shape[0]
      else:
        found |= _depths(value)
  return found


def unstack(tree: Any) -> Any:
  """Replaces stacks layers_0, ... [L, ...] by layer_0, ..., at any depth.

  Args:
    tree: nested dicts of arrays, such as all variables of a model with scanned
      layers; others are returned as they are. A collection may lack stacks that
      another has, as constants do.
  """
  depths = _depths(tree)
  first, count = {}, 0
  for name in _numbered(depths, _STACKED):
    first[name] = count
    count += depths[name]
  return _unstack(tree, first)


def _unstack(tree, first):
  """Does what `unstack` does, given the number of each stack's first layer."""
  if not isinstance(tree, Mapping):
    return tree
  found = {}
  for name, value in tree.items():
    if name not in first:
      found[name] = _unstack(value, first)
      continue
    for i in range(jax.tree.leaves(value)[0].shape[0]):
      layer = jax.tree.map(lambda x, i=i: x[i], value)
      found[f"layer_{first[name] + i}"] = layer
  return found


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
  numbered = enumerate(kinds)
  for i, (_, run) in enumerate(itertools.groupby(numbered, lambda at: at[1])):
    layers = [tree.get(f"layer_{j}") for j, _ in run]
    if layers[0] is not None:
      found[f"layers_{i}"] = jax.tree.map(_joined, *layers)
  return found


def _joined(*leaves):
  on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
  return (np if on_host else jnp).stack(leaves)

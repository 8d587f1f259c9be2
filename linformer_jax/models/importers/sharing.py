"""Who shares E and F, as the tensors themselves tell it.

Several names of a torch model can hold one tensor, so that projections which
are equal are shared.
"""

import dataclasses
from typing import Any

import numpy as np

from linformer_jax.attention import base


def share_heads(
  keys: np.ndarray, values: np.ndarray, leaf: str = "kernel"
) -> tuple[str, dict[str, Any]]:
  """Returns the sharing mode of an attention, and its parameters E and F.

  Args:
    keys, values: E and F of each head, [H, ...]; H is 1 if heads share them.
    leaf: name of the parameter.
  """
  if (keys != keys[0]).any() or (values != values[0]).any():
    sharing = "none"
  else:
    keys, values = keys[0], values[0]
    if np.array_equal(keys, values):
      return "key_value", {"projection": {leaf: keys}}
    sharing = "headwise"
  return sharing, {
    "key_projection": {leaf: keys},
    "value_projection": {leaf: values},
  }


def share_layers(
  kinds: list[base.AttentionConfig], params: dict[str, Any]
) -> base.AttentionConfig | tuple[base.AttentionConfig, ...]:
  """Returns the attention of a model whose layers may share one E = F.

  Args:
    kinds: the attention of each layer.
    params: parameters of the encoder. If layers share E, it moves from them to
      the encoder, in place.
  """
  if len(set(kinds)) > 1:
    return tuple(kinds)
  layers = [
    params[f"layer_{i}"]["block"]["attention"] for i in range(len(kinds))
  ]
  found = [leaf for x in layers for leaf in x.get("projection", {}).values()]
  one = len(layers) == 1 or len(found) < len(layers)
  if one or not all(np.array_equal(found[0], leaf) for leaf in found):
    return kinds[0]
  for layer in layers:
    params["projection"] = layer.pop("projection")
  return dataclasses.replace(kinds[0], sharing="layerwise")

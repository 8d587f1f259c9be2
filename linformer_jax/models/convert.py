"""Turns layers of softmax attention into Linformer's, and stretches models.

`convert` gives chosen layers an E and an F and keeps all other parameters as
they are. `stretch` makes a model longer than it was trained for. Both are pure
functions on the parameters of a `TokenEncoder`, or of a model with a head.

A trained E knows one length. In a text of fewer rows some slots see none, but
their zero keys take part in the softmax. An adaptive pool masks such slots.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from linformer_jax import attention as attention_lib
from linformer_jax.attention import initializers, projection
from linformer_jax.models import config as model_config
from linformer_jax.models import layers as layers_lib

ModelConfig = model_config.ModelConfig
# Starts of E and F [H, K, N] that need no text: (key, shape) -> array.
STARTS = {
  name: initializers.DENSE[name](0.0) for name in ("mean_pool", "strided")
}
# The paper's: N(0, 1 / K), after the lemma of Johnson and Lindenstrauss.
STARTS["random"] = lambda key, shape: (
  jax.random.normal(key, shape) * shape[-2] ** -0.5
)
# The start without weights: softmax attention over means of the real rows.
ADAPTIVE = "adaptive_pool"


def projections(
  start: str, config: ModelConfig, k: int, layers: Sequence[int], seed: int = 0
) -> dict[int, tuple[jax.Array, jax.Array]]:
  """Returns E and F [H, K, N] of layers by a start that needs no text.

  Args:
    start: a key of `STARTS`.
    config: the model.
    k: K.
    layers: indices of the layers.
    seed: of a random start.

  Raises:
    ValueError: for a K that does not fit.
  """
  projection.weights_shape("linear", config.max_length, k, 0)
  shape = config.num_heads, k, config.max_length
  keys = jax.random.split(jax.random.key(seed), (config.num_layers, 2))
  return {
    i: tuple(jnp.asarray(STARTS[start](key, shape)) for key in keys[i])
    for i in layers
  }


def check_layers(config: ModelConfig, layers: Sequence[int]) -> None:
  """Raises a ValueError unless all are layers with softmax attention."""
  for i in layers:
    if not 0 <= i < config.num_layers:
      raise ValueError(
        f"layers has {i}, and the model has layers 0 to {config.num_layers - 1}"
      )
    kind = config.layers[i]
    if kind.name != attention_lib.SoftmaxConfig.name:
      raise ValueError(
        f"layer {i} has {kind.name} attention, and only softmax attention is "
        "converted: leave it out of layers"
      )


def convert(
  config: ModelConfig,
  variables: Mapping[str, Any],
  k: int,
  by: Mapping[int, tuple[jax.Array, jax.Array] | None],
  window: int = 0,
) -> tuple[ModelConfig, dict[str, Any]]:
  """Replaces softmax attention by Linformer's in some layers.

  Args:
    config, variables: the model.
    k: K.
    by: layers to convert, with their E and F [H, K, N]; or all with None, for
      an adaptive pool, which has no weights.
    window: rows on either side to which all other layers of softmax attention
      attend; 0 leaves them as they are.

  Returns:
    The config and the variables; all parameters that were there are kept.

  Raises:
    ValueError: for a layer that is not there or has no softmax attention, or a
      K that does not fit.
  """
  check_layers(config, sorted(by))
  made = list(config.layers)
  for i, kind in enumerate(config.layers):
    rate = {"dropout_rate": kind.dropout_rate}
    if i in by:
      made[i] = attention_lib.LinformerConfig(
        projected_length=k,
        sharing="none",
        projection=ADAPTIVE if by[i] is None else "linear",
        **rate,
      )
    elif window and kind.name == attention_lib.SoftmaxConfig.name:
      made[i] = attention_lib.LocalConfig(window=window, **rate)
  new = dataclasses.replace(config, attention=tuple(made))
  tree = layers_lib.unstack(dict(variables))
  flat = traverse_util.flatten_dict(tree)
  start = ("params", "encoder") if "encoder" in tree["params"] else ("params",)
  for i, pair in by.items():
    if pair is not None:
      place = (*start, f"layer_{i}", "block", "attention")
      for name, weights in zip(
        ("key_projection", "value_projection"), pair, strict=True
      ):
        flat[(*place, name, "kernel")] = jnp.asarray(weights)
  return new, _restacked(new, traverse_util.unflatten_dict(flat))


def _restacked(config, tree):
  return layers_lib.stack(tree, config.layers) if config.scan_layers else tree


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Interpolates linearly along the last axis, at fractional indices."""
  low = np.minimum(places.astype(int), max(values.shape[-1] - 2, 0))
  high = np.minimum(low + 1, values.shape[-1] - 1)
  share = places - low
  return values[..., low] * (1 - share) + values[..., high] * share


def stretch_positions(table, length: int) -> np.ndarray:
  """Stretches a table of positions [N, M] linearly to [length, M].

  The first and the last row are kept; `length` N returns the table.
  """
  table = np.asarray(table)
  if len(table) == length:
    return table
  places = np.linspace(0, len(table) - 1, length)
  stretched = _at(table.astype(np.float64).T, places).T
  return np.ascontiguousarray(stretched, table.dtype)


def repeat_positions(table, length: int) -> np.ndarray:
  """Repeats a table of positions [N, M] from its start up to [length, M].

  Neighbors keep the positions that they were trained with, but where the table
  begins anew; so did Longformer (arXiv 2004.05150, section 5).
  """
  table = np.asarray(table)
  return np.resize(table, (length, *table.shape[1:]))


POSITIONS = {"repeat": repeat_positions, "stretch": stretch_positions}


def stretch_projection(weights, length: int) -> np.ndarray:
  """Stretches E [..., K, N] to [..., K, length].

  The weight of a row spreads evenly over the rows that take its place: what is
  interpolated is the running sum of E, so each slot keeps the sum of its
  weights, and their mean place in the sequence. A constant sequence has the
  same slots as before, and window means stay window means if N divides
  `length`; `length` N returns E.
  """
  weights = np.asarray(weights)
  n = weights.shape[-1]
  if n == length:
    return weights
  sums = np.cumsum(weights, axis=-1, dtype=np.float64)
  sums = np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)
  stretched = np.diff(_at(sums, np.linspace(0, n, length + 1)), axis=-1)
  return stretched.astype(weights.dtype)


_DENSE = re.compile(r"projection/kernel$")


def stretch(
  config: ModelConfig,
  variables: Mapping[str, Any],
  length: int,
  positions: str = "repeat",
) -> tuple[ModelConfig, dict[str, Any]]:
  """Stretches a model to inputs of `length` rows, or shortens it.

  E and F are stretched by `stretch_projection`. The unused rows at the start of
  RoBERTa's position table are left as they are. experiments/convert compares
  both ways with positions.

  Args:
    config, variables: the model.
    length: the new `max_length`.
    positions: 'repeat' (`repeat_positions`) or 'stretch'
      (`stretch_positions`), after which neighbors have closer positions than in
      training, so the model has to be trained on long inputs before it is used.

  Returns:
    The config and the variables of the longer model.

  Raises:
    ValueError: for a length that does not fit the attention, or convolutions
      along the sequence, whose windows would grow.
  """
  for kind in config.layers:
    if getattr(kind, "projection", "") == "convolution":
      raise ValueError(
        "projection 'convolution' has kernels for windows of N / K rows, which "
        "cannot be stretched"
      )
  new = dataclasses.replace(config, max_length=length)
  offset = config.position_offset

  def stretched(path, leaf):
    if path[-2:] == ("embed", "positions"):
      rows = POSITIONS[positions](leaf[offset:], length)
      return jnp.concatenate([leaf[:offset], rows])
    if _DENSE.search("/".join(path)):
      return jnp.asarray(stretch_projection(leaf, length))
    return leaf

  tree = traverse_util.path_aware_map(
    stretched, layers_lib.unstack(dict(variables))
  )
  return new, _restacked(new, tree)

"""Singular values of attention matrices (arXiv 2006.04768, Figure 1).

Measures how close an attention matrix P is to low rank: the sum of its largest
j singular values over the sum of all, against j. P is computed from queries and
keys captured as linen intermediates, so the model needs no changes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linformer_jax import models
from linformer_jax.models import layers

_LEVELS = ("heads", "layers", "all")


def cumulative(matrices: jax.Array) -> jax.Array:
  """Returns normalized cumulative singular values.

  Uses an SVD, since eigenvalues of P^T P in float32 would lose the many small
  singular values.

  Args:
    matrices: [..., N, K].

  Returns:
    float32 [..., R], R = min(N, K): entry j - 1 is the sum of the largest j
    over the sum of all, a concave curve that rises to 1.
  """
  values = jnp.linalg.svd(matrices.astype(jnp.float32), compute_uv=False)
  sums = jnp.cumsum(values, axis=-1)
  return sums / sums[..., -1:]


def _in_xla(layer):
  """Returns an attention that runs on any device."""
  if not hasattr(layer, "implementation"):
    return layer
  return dataclasses.replace(layer, implementation="xla")


def layer_by_layer(config: models.ModelConfig, variables):
  """Unrolls an encoder, so each layer's intermediates can be captured.

  Args:
    config: config of the encoder.
    variables: 'params' and optionally 'constants' of a `TokenEncoder`.

  Returns:
    (config, variables) with layers layer_0, layer_1, ... and no query blocks.
  """
  plain = dataclasses.replace(
    config,
    scan_layers=False,
    remat=False,
    query_block=0,
    attention=tuple(map(_in_xla, config.layers)),
  )
  return plain, layers.unstack(variables)


def attention(
  config: models.ModelConfig, variables, tokens: jax.Array
) -> list[jax.Array]:
  """Returns the attention matrices P = softmax(Q K^T / sqrt(D)) of an encoder.

  Args:
    config: config of the encoder.
    variables: 'params' and optionally 'constants' of a `TokenEncoder`.
    tokens: int [B, N], without padding.

  Returns:
    float32 [B, H, N, K] for each layer: K = N with softmax attention, and the
    projected length with projected keys, whose P is the paper's P-bar.

  Raises:
    ValueError: for an attention that is more than this P, or has none.
  """
  for layer in config.layers:
    if not layer.is_softmax:
      raise ValueError(
        f"attention {layer.describe()} has no matrix softmax(Q K^T / sqrt(D)) "
        "and nothing else, so it has no spectrum"
      )
  config, variables = layer_by_layer(config, variables)
  _, seen = models.TokenEncoder(config).apply(
    variables,
    tokens,
    capture_intermediates=_is_query_or_key,
    mutable="intermediates",
  )
  found = []
  for i in range(config.num_layers):
    maps = seen["intermediates"][f"layer_{i}"]["block"]["attention"]
    [q], [k] = (maps[name]["__call__"] for name in ("query", "key"))
    if isinstance(k, tuple):  # projected keys, and those of all rows
      k = k[0]
    scores = jnp.einsum(
      "bnhd,bkhd->bhnk",
      q.astype(jnp.float32),
      k.astype(jnp.float32),
      precision="highest",
    )
    found.append(jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1))
  return found


def _is_query_or_key(module: nn.Module, method: str) -> bool:
  return method == "__call__" and module.name in ("query", "key")


def curves(config: models.ModelConfig, variables, tokens) -> jax.Array:
  """Returns `cumulative` of every matrix of `attention`: float32 [B, L, H, R].

  Raises:
    ValueError: if layers have different projected lengths.
  """
  matrices = attention(config, variables, tokens)
  lengths = [matrix.shape[-1] for matrix in matrices]
  if len(set(lengths)) > 1:
    raise ValueError(
      f"curves of one length need one K for all layers, not {lengths}"
    )
  return cumulative(jnp.stack(matrices, axis=1))


class Moments:
  """Mean and standard deviation of curves over blocks of text, in float64.

  Has three levels: each head, the mean over a layer's heads, and the mean over
  all heads, since the spread of a mean is not the mean of spreads.
  """

  def __init__(self, state: dict[str, np.ndarray] | None = None):
    """Starts empty, or resumes from the `state` of other moments."""
    self._sums = dict(state or {"count": np.zeros((), np.int64)})

  def state(self) -> dict[str, np.ndarray]:
    """Returns arrays to resume from."""
    return dict(self._sums)

  @property
  def count(self) -> int:
    """Blocks so far."""
    return int(self._sums["count"])

  def add(self, found: jax.Array):
    """Adds the curves [B, L, H, R] of B blocks."""
    heads = np.asarray(found, np.float64)
    levels = heads, heads.mean(axis=2), heads.mean(axis=(1, 2))
    self._sums["count"] = self._sums["count"] + len(heads)
    for name, values in zip(_LEVELS, levels, strict=True):
      for power in (1, 2):
        key = f"{name}_{power}"
        # Block by block, so batching does not change the result.
        for value in values**power:
          self._sums[key] = self._sums.get(key, 0) + value

  def mean(self, level: str) -> np.ndarray:
    """Returns the mean: 'heads' [L, H, R], 'layers' [L, R] or 'all' [R]."""
    return self._sums[f"{level}_1"] / self.count

  def spread(self, level: str) -> np.ndarray:
    """Returns the standard deviation over blocks; shapes as in `mean`."""
    second = self._sums[f"{level}_2"] / self.count
    return np.sqrt(np.maximum(second - self.mean(level) ** 2, 0))


def summary(moments: Moments) -> dict:
  """Returns the data of Figure 1 as JSON.

  Returns:
    indices: the sampled j, from 1 to R.
    mean, spread: the curve of all heads together, at `indices`.
    heads_mean, heads_spread: [L][H] curves at `indices`.
    quarter: j = R / 4, which the heat map shows.
    at_quarter: mean and spread there: 'all', 'layers' [L], 'heads' [L][H].
  """
  size = moments.mean("all").shape[0]
  steps = {max(1, size * i // 32) for i in range(1, 33)}
  indices = sorted(steps | {j for j in (1, 2, 4, 8) if j <= size})
  quarter = max(1, size // 4)

  def at(values, j):
    return np.round(values[..., np.asarray(j) - 1], 5).tolist()

  return {
    "blocks": moments.count,
    "indices": indices,
    "mean": at(moments.mean("all"), indices),
    "spread": at(moments.spread("all"), indices),
    "heads_mean": at(moments.mean("heads"), indices),
    "heads_spread": at(moments.spread("heads"), indices),
    "quarter": quarter,
    "at_quarter": {
      level: {
        "mean": at(moments.mean(level), quarter),
        "spread": at(moments.spread(level), quarter),
      }
      for level in _LEVELS
    },
  }


def draw(summaries: dict[str, dict]):
  """Draws Figure 1: mean curves with spread, and heat maps of layer by head.

  Args:
    summaries: results of `summary` by label. Each gives a curve; the first and
      last also give a heat map.

  Returns:
    A matplotlib figure.
  """
  from matplotlib import figure, ticker

  ends = list(dict.fromkeys([next(iter(summaries)), list(summaries)[-1]]))
  drawing = figure.Figure(
    figsize=(4.4 + 3.9 * len(ends), 3.8), layout="constrained"
  )
  first, *rest = drawing.subplots(1, 1 + len(ends))
  for label, found in summaries.items():
    mean, spread = np.array(found["mean"]), np.array(found["spread"])
    first.plot(found["indices"], mean, label=label)
    first.fill_between(
      found["indices"], mean - spread, mean + spread, alpha=0.25
    )
  quarter = summaries[ends[0]]["quarter"]
  first.axvline(quarter, color="gray", linestyle="--", linewidth=1)
  first.set(
    xlabel="index of the singular value",
    ylabel="normalized cumulative singular value",
    ylim=(0, 1.01),
  )
  first.grid(True, alpha=0.3)
  first.legend()
  maps = [np.array(summaries[x]["at_quarter"]["heads"]["mean"]) for x in ends]
  low = min(x.min() for x in maps)
  for axes, label, values in zip(rest, ends, maps, strict=True):
    shown = axes.imshow(values, aspect="auto", vmin=low, vmax=1)
    axes.set(xlabel="head", ylabel="layer", title=f"{label}, index {quarter}")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(ticker.MaxNLocator(integer=True))
  drawing.colorbar(shown, ax=rest, label=f"share at index {quarter}")
  return drawing


def picture(drawing) -> np.ndarray:
  """Renders a matplotlib figure as uint8 [height, width, 3]."""
  from matplotlib.backends import backend_agg

  canvas = backend_agg.FigureCanvasAgg(drawing)
  canvas.draw()
  return np.array(canvas.buffer_rgba())[..., :3]

"""Trains a converted model to have the hidden states of the original."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linformer_jax import models
from linformer_jax.models import encoder as encoder_lib
from linformer_jax.models import fits
from linformer_jax.tools import spectrum

_MAPS = ("query", "key", "value")


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """An encoder whose layers can be seen one by one.

  Attributes:
    config: with unrolled layers.
    variables: of a `TokenEncoder`, likewise.
  """

  config: models.ModelConfig
  variables: Any

  def rows(self, tokens, mask, variables=None) -> list[jax.Array]:
    """Returns the output [B, N, M] of each layer."""
    found = self._seen(
      tokens,
      mask,
      lambda module, _: isinstance(module, encoder_lib.Block),
      variables,
    )
    return [layer["__call__"][0] for layer in found]

  def heads(self, tokens, mask) -> list[tuple[jax.Array, ...]]:
    """Returns q, k and v [H, B, N, D] of each layer, as `fits` takes them.

    Every layer has softmax attention.
    """
    found = self._seen(
      tokens,
      mask,
      lambda module, method: method == "__call__" and module.name in _MAPS,
    )
    made = []
    for i, layer in enumerate(found):
      params = self.variables["params"][f"layer_{i}"]["block"]["attention"]
      maps = {x: layer["attention"][x]["__call__"][0] for x in _MAPS}
      for name in _MAPS[1:]:
        bias = params[name]["bias"].reshape(maps[name].shape[2:])
        maps[name] = jnp.where(mask[..., None, None], maps[name] - bias, 0)
      made.append(tuple(maps[x].transpose(2, 0, 1, 3) for x in _MAPS))
    return made

  def _seen(self, tokens, mask, wanted, variables=None):
    """Returns the intermediates of each block."""
    _, seen = models.TokenEncoder(self.config).apply(
      self.variables if variables is None else variables,
      tokens,
      mask,
      mutable="intermediates",
      capture_intermediates=wanted,
    )
    seen = seen["intermediates"]
    return [seen[f"layer_{i}"]["block"] for i in range(self.config.num_layers)]


def encoder_of(config: models.ModelConfig, variables) -> Encoder:
  """Returns the encoder of a model, with a head or without."""
  found = {name: tree.get("encoder", tree) for name, tree in variables.items()}
  return Encoder(*spectrum.layer_by_layer(config, found))


def mean_rows(encoder: Encoder, tokens, mask) -> jax.Array:
  """Returns the mean [B, M] of the last layer's real rows."""
  return _mean(encoder.rows(tokens, mask)[-1], mask)


def _mean(rows, mask):
  total = jnp.sum(jnp.where(mask[..., None], rows, 0), axis=1)
  return total / jnp.sum(mask, axis=1, keepdims=True)


def attention_of(heads, mask) -> jax.Array:
  """Returns the attention [H, B, N, N] of `Encoder.heads`' q and k."""
  q, k, _ = heads
  return jax.lax.map(lambda x: fits.weights(*x, mask, mask), (q, k))


def loss(encoder: Encoder, variables, wanted, tokens, mask) -> jax.Array:
  """Returns the mean square error of the real rows, over all layers.

  Args:
    encoder: the converted one.
    variables: its variables.
    wanted: the original's rows of each layer, [B, N, M].
    tokens, mask: [B, N].
  """
  found = encoder.rows(tokens, mask, variables)
  real = mask[..., None] / (jnp.sum(mask) * found[0].shape[-1])
  return sum(
    jnp.sum(real * jnp.where(mask[..., None], a - b, 0) ** 2)
    for a, b in zip(found, wanted, strict=True)
  ) / len(found)


def batches(
  tokens: np.ndarray, mask: np.ndarray, size: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields batches for ever, epoch by epoch in a random order."""
  size, rng = min(size, len(tokens)), np.random.default_rng(seed)
  while True:
    order = rng.permutation(len(tokens))
    for i in range(0, len(order) - size + 1, size):
      chosen = order[i : i + size]
      yield tokens[chosen], mask[chosen]


def distill(
  original: Encoder,
  converted: Encoder,
  stream: Iterator[tuple[np.ndarray, np.ndarray]],
  updates: int,
  rate: float,
  tell: Callable[[int, float, float], Any] = lambda *_: None,
):
  """Returns the parameters of the converted encoder's layers after AdamW.

  The learning rate warms up over 5% of the updates and decays to zero by a
  cosine. Embeddings are kept, and so is what a head was trained on. Texts that
  the original cannot read, as they are too long for it, cannot be taught.

  Args:
    original, converted: the encoders.
    stream: batches of tokens and masks, all of one shape.
    updates: of AdamW.
    rate: the largest learning rate.
    tell: called with the updates, the mean loss since it was called last and
      the seconds left, twenty times in all.
  """
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, rate, max(1, updates // 20), updates
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0)
  )
  kept, params = _divided(converted.variables["params"])
  rows = jax.jit(original.rows)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, state, wanted, tokens, mask):
    def of(params):
      variables = converted.variables | {"params": kept | params}
      return loss(converted, variables, wanted, tokens, mask)

    value, gradient = jax.value_and_grad(of)(params)
    change, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, change), state, value

  params = jax.tree.map(jnp.array, params)  # copies, which are donated
  state, start, losses = optimizer.init(params), time.monotonic(), []
  for i, (tokens, mask) in zip(range(1, updates + 1), stream, strict=False):
    wanted = rows(tokens, mask)
    params, state, value = update(params, state, wanted, tokens, mask)
    losses.append(value)
    if i == updates or i % max(1, updates // 20) == 0:
      mean = float(jnp.mean(jnp.stack(losses)))
      left = (time.monotonic() - start) / i * (updates - i)
      tell(i, mean, left)
      losses = []
  return kept | params


def _divided(params):
  """Returns the embeddings, with their norm, and the parameters of layers."""
  kept = {name: params[name] for name in ("embed", "norm")}
  return kept, {name: x for name, x in params.items() if name not in kept}

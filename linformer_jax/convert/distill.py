"""Trains a converted model to have the hidden states of the original."""

import contextlib
import dataclasses
import itertools
import pathlib
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
from linformer_jax.run import checkpoint, preemption, report
from linformer_jax.tools import spectrum

_SECONDS = 300  # between checkpoints
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


class Distillation:
  """Trains the layers of a converted encoder by AdamW.

  Embeddings are kept, and so is what a head was trained on.

  Attributes:
    params: all parameters of the converted encoder, as they are now.
  """

  def __init__(self, original: Encoder, converted: Encoder, schedule):
    """Takes both encoders, and a schedule of learning rates."""
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0)
    )
    params = converted.variables["params"]
    self._kept = {name: params[name] for name in ("embed", "norm")}
    layers = {name: x for name, x in params.items() if name not in self._kept}
    self._layers = jax.tree.map(jnp.array, layers)  # copies, which are donated
    self._state = optimizer.init(self._layers)
    self._rows = jax.jit(original.rows)

    def update(layers, state, wanted, tokens, mask):
      def of(layers):
        variables = converted.variables | {"params": self._kept | layers}
        return loss(converted, variables, wanted, tokens, mask)

      value, gradient = jax.value_and_grad(of)(layers)
      change, state = optimizer.update(gradient, state, layers)
      return optax.apply_updates(layers, change), state, value

    self._update = jax.jit(update, donate_argnums=(0, 1))

  @property
  def params(self):
    return self._kept | self._layers

  @property
  def state(self):
    """The layers and the optimizer's state, to save and to restore."""
    return {"layers": self._layers, "optimizer": self._state}

  @state.setter
  def state(self, state):
    self._layers, self._state = state["layers"], state["optimizer"]

  def update(self, tokens, mask) -> jax.Array:
    """Makes an update; returns the loss before it."""
    self._layers, self._state, value = self._update(
      self._layers, self._state, self._rows(tokens, mask), tokens, mask
    )
    return value


class _Keep:
  """Saves a distillation and restores it; a context manager."""

  def __init__(self, folder: pathlib.Path):
    self._saved = checkpoint.Checkpoints(folder)
    self._signals = preemption.Signals()
    self._last = time.monotonic()

  def __enter__(self):
    self._signals.__enter__()
    return self

  def __exit__(self, *error):
    self._signals.__exit__(*error)
    self._saved.__exit__(*error)

  def restore(self, run: Distillation) -> int:
    """Restores the newest state; returns its updates, or 0."""
    found = self._saved.restore(jax.eval_shape(lambda x: x, run.state))
    if found is None:
      return 0
    run.state, note = found
    return note["updates"]

  def save(self, updates: int, run: Distillation):
    """Saves if it is time, or at a signal, which it raises."""
    number = self._signals.received(updates)
    if number is None and time.monotonic() - self._last < _SECONDS:
      return
    self._last = time.monotonic()
    self._saved.save(updates, run.state, {"updates": updates})
    if number is not None:
      self._saved.wait()
      raise preemption.Interrupted(number, updates)


def distill(
  original: Encoder,
  converted: Encoder,
  stream: Iterator[tuple[np.ndarray, np.ndarray]],
  updates: int,
  rate: float,
  tell: Callable[[int, float, float], Any] = lambda *_: None,
  folder: pathlib.Path | None = None,
):
  """Returns the parameters of the converted encoder after a `Distillation`.

  The learning rate warms up over 5% of the updates and decays to zero by a
  cosine.

  Args:
    original, converted: the encoders.
    stream: batches of tokens and masks, all of one shape.
    updates: of AdamW.
    rate: the largest learning rate.
    tell: called twenty times with the updates done, the mean loss since the
      last call, and the seconds left.
    folder: where to save every few minutes and at SIGTERM or SIGINT, and
      where to resume from; None saves nothing.

  Raises:
    preemption.Interrupted: at a signal, once the state is saved.
  """
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, rate, max(1, updates // 20), updates
  )
  run = Distillation(original, converted, schedule)
  with contextlib.ExitStack() as stack:
    keep = stack.enter_context(_Keep(folder)) if folder else None
    first = keep.restore(run) if keep else 0
    if first:
      report.say(f"resuming at update {first:,} of {updates:,}")
    start, losses = time.monotonic(), []
    for i, batch in enumerate(
      itertools.islice(stream, first, updates), first + 1
    ):
      losses.append(run.update(*batch))
      if i == updates or i % max(1, updates // 20) == 0:
        mean = float(jnp.mean(jnp.stack(losses)))
        left = (time.monotonic() - start) / (i - first) * (updates - i)
        tell(i, mean, left)
        losses = []
      if keep:
        keep.save(i, run)
  return run.params

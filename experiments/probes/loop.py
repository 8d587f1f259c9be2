"""Trains a small model on batches that are drawn on the device."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linformer_jax import models
from linformer_jax.tasks import auxiliary


class Batch(NamedTuple):
  """Rows and questions about them.

  Attributes:
    tokens: int [B, N].
    segments: int [B, N], or None.
    asked: int [B, A], the positions that answer.
    answers: int [B, A], tokens.
    distance: int [B, A], rows back to what is asked for, or None.
  """

  tokens: Any
  segments: Any
  asked: Any
  answers: Any
  distance: Any = None


class Schedule(NamedTuple):
  """How long a model is trained.

  Attributes:
    rate: learning rate of Adam, after `every` updates of warmup.
    updates: at most.
    every: updates between evaluations.
    batch: rows of an update.
    tested: rows of an evaluation, the same ones each time.
    enough: share of right answers that ends the run.
  """

  rate: float
  updates: int
  every: int = 100
  batch: int = 32
  tested: int = 512
  enough: float = 0.999


def answers(module, variables, batch: Batch):
  """Returns the logits of a language model where a batch asks, [B, A, V]."""
  if isinstance(module, models.CausalLM):
    found = auxiliary.apply(module, variables, batch.tokens)
    return jnp.take_along_axis(found, batch.asked[..., None], axis=1)
  return auxiliary.apply(
    module, variables, batch.tokens,
    positions=batch.asked, segments=batch.segments,
  )  # fmt: skip


def train(
  config, draw, schedule: Schedule, seed: int, kind=models.MaskedLM, after=None
) -> dict:
  """Trains a language model to answer.

  Args:
    config: its ModelConfig.
    draw: (key, rows) -> Batch.
    schedule: how long.
    seed: of the weights and the batches.
    kind: models.MaskedLM or models.CausalLM.
    after: the trained variables -> dict that is added to the result, or None.

  Returns:
    'right', the share of right answers after each `every` updates;
    'parameters'; 'run_seconds'; and, if batches tell distances, 'by_distance':
    the share in the end for each quarter of N, None where nothing is asked.
  """
  module = kind(config)
  start, stream, test = jax.random.split(jax.random.key(seed), 3)
  rate = optax.warmup_constant_schedule(0.0, schedule.rate, schedule.every)
  rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  first = draw(test, 1)
  variables = dict(module.init(start, first.tokens, segments=first.segments))
  params = variables.pop("params")

  def logits(params, batch):
    return answers(module, {"params": params} | variables, batch)

  def loss(params, batch):
    with auxiliary.collected() as sown:
      found = logits(params, batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      found, batch.answers
    )
    return losses.mean() + sum(map(jnp.sum, sown))

  @jax.jit
  def some(state, key):
    def update(state, key):
      params, memory = state
      change = jax.grad(loss)(params, draw(key, schedule.batch))
      change, memory = rule.update(change, memory)
      return (optax.apply_updates(params, change), memory), None

    return jax.lax.scan(update, state, jax.random.split(key, schedule.every))[0]

  @jax.jit
  def right(params):
    batch = draw(test, schedule.tested)
    return logits(params, batch).argmax(-1) == batch.answers

  state, found, began = (params, rule.init(params)), [], time.time()
  for i in range(schedule.updates // schedule.every):
    state = some(state, jax.random.fold_in(stream, i))
    hits = np.asarray(right(state[0]))
    found.append(round(float(hits.mean()), 4))
    if found[-1] >= schedule.enough:
      break
  result = {
    "right": found,
    "parameters": models.num_parameters(params),
    "run_seconds": round(time.time() - began, 1),
  }
  distance = draw(test, schedule.tested).distance
  if distance is not None:
    result["by_distance"] = by_distance(hits, distance, config.max_length)
  return result | (after({"params": state[0]} | variables) if after else {})


def by_distance(hits, distance, n: int) -> list[float | None]:
  """Returns the share of hits for each quarter of n, None where there is none.

  Args:
    hits: bool [...].
    distance: int [...], from 1 to n.
    n: rows.
  """
  quarter = (np.asarray(distance) - 1) * 4 // n
  return [
    round(float(hits[quarter == i].mean()), 4) if (quarter == i).any() else None
    for i in range(4)
  ]

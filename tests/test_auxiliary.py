"""Losses that layers sow reach the gradient of training, and nothing else."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linformer_jax import models, step
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from linformer_jax.run import report
from linformer_jax.tasks import auxiliary
from tests import arrays, tiny


def make_config(attention="adamra", **changes):
  config = tiny.get_config(attention)
  config.model.dropout_rate = 0.0
  if attention == "adamra":
    config.attention.ratios = (1, 4)
    config.attention.route = "hard"
    config.attention.balance = 3.0
  config.update_from_flattened_dict(changes)
  return config


def build(config):
  return step.build_steps(config, sharding.make_mesh(config.mesh))


@pytest.fixture(scope="module")
def batch():
  config = make_config()
  data = pipeline.DataConfig(**config.data.to_dict())
  corpus = pipeline.prepare(data)
  return next(pipeline.train_iterator(corpus, step.task_of(config), 0, 8))


def random_router(params):
  """Zero routers, as at the start, give all sequences the same balance."""

  def fill(path, leaf):
    is_router = any(getattr(key, "key", "") == "router" for key in path)
    return 3 * arrays.draw(*leaf.shape) if is_router else leaf

  return jax.tree_util.tree_map_with_path(fill, params)


def test_training_adds_it_whatever_the_parts(batch):
  """Four parts of remat and scan, beside the whole batch by hand."""
  changes = {"train.accumulation_steps": 4, "model.remat": True}
  steps = build(make_config(**changes))
  state = steps.init()
  params = random_router(state.params)
  model = models.MaskedLM(dataclasses.replace(steps.model, remat=False))

  def by_hand(params):
    logits, sown = model.apply(
      {"params": params},
      batch["tokens"],
      None,
      batch["positions"],
      mutable=["losses"],
    )
    nll = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["targets"]
    )
    (balance,) = jax.tree.leaves(sown)
    assert balance.shape == (2,)  # of each layer
    return jnp.mean(nll) + jnp.sum(balance), jnp.sum(balance)

  value = jax.jit(jax.value_and_grad(by_hand, has_aux=True))
  (total, balance), grads = jax.device_get(value(params))
  assert balance > 2 * 3.0 * 1.01  # each is at least 1 when it is even
  new, values = steps.train(state.replace(params=params), batch)
  weight = values["weight"]
  assert weight == batch["weights"].size
  np.testing.assert_allclose(
    values["auxiliary"] / weight, balance, rtol=64 * arrays.EPS
  )
  # The loss that is reported is the task's alone.
  np.testing.assert_allclose(
    values["loss"] / weight, total - balance, rtol=64 * arrays.EPS
  )
  mean = optax.tree.get(new.opt_state, "mu")
  largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  for got, want in zip(
    jax.tree.leaves(mean), jax.tree.leaves(grads), strict=True
  ):
    # Sums over 8 * 32 tokens; Adam's first mean is the gradient, scaled.
    bound = 256 * arrays.EPS * largest
    np.testing.assert_allclose(got / 0.1, want, rtol=0, atol=bound)
  sums = jax.eval_shape(steps.evaluate, state, batch)
  assert set(sums) == {"loss", "correct", "weight"}


@pytest.mark.parametrize("name", ["linformer", "local+linear"])
def test_a_model_that_sows_nothing_has_the_same_program(name, batch):
  steps = build(make_config(name))
  task, variables = steps.task, {"params": steps.abstract_state.params}

  def program(sums):
    return str(jax.make_jaxpr(sums)(variables, dict(batch)))

  ours = program(lambda *given: auxiliary.sums_of(task, *given))
  assert ours == program(task.sums)
  assert "auxiliary" not in jax.eval_shape(
    lambda *given: auxiliary.sums_of(task, *given), variables, batch
  )


def test_nothing_is_collected_outside_of_the_context():
  found = []

  class Module:
    def apply(self, variables, *arguments, **keywords):
      found.append(keywords)
      return (1, {"losses": {"a": (2.0,)}}) if "mutable" in keywords else 1

  module = Module()
  with auxiliary.collected() as sown:
    with auxiliary.collected() as inner:
      assert auxiliary.apply(module, {}) == 1
    assert inner == [2.0] and sown == []
  assert auxiliary.apply(module, {}) == 1
  assert [sorted(keywords) for keywords in found] == [["mutable"], []]


def test_it_is_reported_by_target():
  rows = []
  task = types.SimpleNamespace(metrics=lambda sums: {"loss": sums["loss"]})
  window = report.Window(
    types.SimpleNamespace(scalars=lambda step, row: rows.append(row)),
    types.SimpleNamespace(train=lambda step, row: None),
    types.SimpleNamespace(read=lambda steps: {}, pause=lambda: None),
    task,
    every=2,
  )
  norms = dict.fromkeys(
    ("gradient_norm", "parameter_norm", "learning_rate"), 1.0
  )
  for i, total in enumerate((3.0, 5.0)):
    values = {"loss": 1.0, "weight": 2.0, "auxiliary": total}
    window.add(i + 1, values | norms)
  window.close()
  assert rows[0]["train/auxiliary"] == (3 + 5) / (2 + 2)

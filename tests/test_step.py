"""The update: exact weighting, donation, and what it is compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linformer_jax import models, optimizer, step
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from tests import tiny

EPS = float(np.finfo(np.float32).eps)


def build(**changes):
  config = tiny.get_config()
  config.model.dropout_rate = config.attention.dropout_rate = 0.0
  changes = {name.replace("__", "."): x for name, x in changes.items()}
  config.update_from_flattened_dict(changes)
  return config, step.build_steps(config, sharding.make_mesh(config.mesh))


@pytest.fixture(scope="module")
def batch():
  """A training batch whose rows have different numbers of targets, some 0."""
  config = tiny.get_config()
  data = pipeline.DataConfig(**config.data.to_dict())
  corpus = pipeline.prepare(data)
  iterator = pipeline.train_iterator(corpus, step.task_of(config), 0, 8)
  batch = next(iterator)
  weights = batch["weights"].copy()
  weights[0] = weights[4] = 0  # all of the first of four parts
  weights[1, 1:] = 0
  weights[6, :2] = 0
  return dict(batch, weights=weights)


@pytest.fixture(scope="module")
def by_hand(batch):
  """(state, loss, gradient) of one update, straight from the model."""
  config, steps = build()
  state = steps.init()
  model = models.MaskedLM(steps.model)

  def mean_loss(params):
    logits = model.apply(
      {"params": params}, batch["tokens"], None, batch["positions"]
    )
    scores = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(scores, batch["targets"][..., None], -1)[..., 0]
    return jnp.sum(nll * batch["weights"]) / jnp.sum(batch["weights"])

  loss, grads = jax.jit(jax.value_and_grad(mean_loss))(state.params)
  return jax.device_get((state, loss, grads))


@pytest.mark.parametrize("parts", [4])
def test_parts_add_up_to_the_gradient_of_the_whole_batch(parts, batch, by_hand):
  """Each token weighs the same, however many its part has."""
  state, loss, grads = by_hand
  config, steps = build(train__accumulation_steps=parts)
  new, values = steps.train(steps.init(), batch)
  weight = batch["weights"].sum()
  assert values["weight"] == weight
  np.testing.assert_allclose(values["loss"] / weight, loss, rtol=8 * EPS)
  # Adam's first mean is the gradient itself, scaled.
  mean = optax.tree.get(new.opt_state, "mu")
  largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  for got, want in zip(
    jax.tree.leaves(mean), jax.tree.leaves(grads), strict=True
  ):
    got = got / (1 - config.optimizer.adam_b1)
    # Sums over 8 * 32 tokens, each rounded in eps of what it adds up.
    np.testing.assert_allclose(got, want, rtol=0, atol=256 * EPS * largest)
  norms = [np.linalg.norm(np.float64(g)) for g in jax.tree.leaves(grads)]
  np.testing.assert_allclose(
    values["gradient_norm"], np.linalg.norm(norms), rtol=1e-5
  )


def test_update_is_that_of_the_optimizer(batch, by_hand):
  state, _, grads = by_hand
  config, steps = build()
  new, values = steps.train(steps.init(), batch)
  tx = optimizer.create(config.optimizer, config.train.num_steps)
  updates, _ = tx.update(grads, state.opt_state, state.params)
  rate = values["learning_rate"]
  assert rate == np.float32(config.optimizer.learning_rate / 2)  # warm-up
  assert int(new.step) == 1
  wanted = optax.apply_updates(state.params, updates)
  for got, want in zip(
    jax.tree.leaves(new.params), jax.tree.leaves(wanted), strict=True
  ):
    # The update is rate * g / (|g| + eps): where g is about eps or smaller, its
    # rounding error of 1e-8 counts as 1e-8 / eps = 1% of the rate.
    np.testing.assert_allclose(got, want, rtol=0, atol=0.02 * rate)
  norms = [np.linalg.norm(np.float64(x)) for x in jax.tree.leaves(new.params)]
  np.testing.assert_allclose(
    values["parameter_norm"], np.linalg.norm(norms), rtol=1e-5
  )


def test_a_batch_without_targets_changes_no_gradient(batch):
  _, steps = build()
  nothing = dict(batch, weights=np.zeros_like(batch["weights"]))
  new, values = steps.train(steps.init(), nothing)
  assert values["weight"] == values["loss"] == values["gradient_norm"] == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(new.params))


def test_dropout_differs_by_update(batch):
  _, steps = build(model__dropout_rate=0.5)
  losses = [
    float(
      steps.train(steps.init().replace(step=jnp.int32(i)), batch)[1]["loss"]
    )
    for i in (0, 1, 0)
  ]
  assert losses[0] == losses[2] != losses[1]


def test_randomness_differs_by_part():
  """Twice the same rows: without keys of their own, twice the same numbers."""

  def sums_of(params, rows, key):
    noise = jax.random.normal(key, rows.shape)
    return {"loss": jnp.sum(params * rows * noise)}

  key, rows = jax.random.key(0), jnp.ones(4)
  grad, _ = step._accumulated(sums_of, jnp.float32(1), rows, key, 1)
  twice, _ = step._accumulated(
    sums_of, jnp.float32(1), jnp.repeat(rows, 2), key, 2
  )
  assert abs(twice - 2 * grad) > 0.1


def test_abstract_batch_is_what_the_pipeline_makes(batch):
  _, steps = build()
  assert batch.keys() == steps.abstract_batch.keys()
  for name, wanted in steps.abstract_batch.items():
    assert (batch[name].shape, batch[name].dtype) == (
      wanted.shape,
      wanted.dtype,
    )


def test_abstract_state_is_what_init_makes():
  _, steps = build()
  jax.tree.map(
    lambda x, like: (
      pytest.fail(f"{x.aval} {like}")
      if (x.shape, x.dtype, x.sharding)
      != (like.shape, like.dtype, like.sharding)
      else None
    ),
    steps.init(),
    steps.abstract_state,
  )


def test_the_state_is_donated():
  _, steps = build()
  compiled = steps.train.lower(steps.abstract_state, steps.abstract_batch)
  memory = compiled.compile().memory_analysis()
  size = sum(x.size * 4 for x in jax.tree.leaves(steps.abstract_state))
  assert memory.alias_size_in_bytes >= size


def test_metrics_are_float32_whatever_the_model_computes_in():
  _, steps = build(model__dtype="bfloat16")
  state, values = jax.eval_shape(
    steps.train, steps.abstract_state, steps.abstract_batch
  )
  assert {x.dtype for x in values.values()} == {np.dtype(np.float32)}
  for leaf in jax.tree.leaves((state.params, state.opt_state)):
    assert leaf.dtype in (np.float32, np.int32)


def test_projected_lengths_of_every_layer_reach_the_model():
  config = tiny.get_config()
  config.attention.projected_lengths = (8, 4)

  def lengths():
    layers = step.model_config(config).layers
    return tuple(layer.projected_length for layer in layers)

  assert lengths() == (8, 4)
  config.attention.projected_lengths = ()
  assert lengths() == (8, 8)

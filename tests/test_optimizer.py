"""AdamW by hand, the schedule's corners, and what weight decay leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linformer_jax import optimizer, step
from linformer_jax.parallel import sharding
from tests import tiny


def group(**changes):
  config = tiny.get_config().optimizer
  config.update(changes)
  return config


@pytest.mark.parametrize(
  "count, share",
  [
    (0, 1 / 4),  # never 0: no update is wasted
    (1, 2 / 4),
    (3, 1),  # the peak
    (4, 1),
    (5, 5 / 6),
    (9, 1 / 6),  # the last update
  ],
)
def test_schedule(count, share):
  rate = optimizer.learning_rate(group(learning_rate=0.5, warmup_steps=4), 10)
  np.testing.assert_allclose(rate(jnp.int32(count)), 0.5 * share, rtol=1e-6)


def test_schedule_without_warmup_starts_at_the_peak():
  rate = optimizer.learning_rate(group(learning_rate=0.5, warmup_steps=0), 4)
  got = [float(rate(jnp.int32(count))) for count in range(4)]
  np.testing.assert_allclose(got, [0.5, 0.375, 0.25, 0.125])


def test_schedule_at_full_length_is_exact_enough():
  """Quarter of a million updates, in float32."""
  rate = optimizer.learning_rate(
    group(learning_rate=6e-4, warmup_steps=24_000), 250_000
  )
  for count, share in [(0, 1 / 24_000), (23_999, 1), (249_999, 1 / 226_000)]:
    np.testing.assert_allclose(rate(jnp.int32(count)), 6e-4 * share, rtol=1e-6)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(warmup_steps=10), "warmup_steps 10 .*num_steps 10"),
    (dict(warmup_steps=-1), "warmup_steps -1"),
    (dict(learning_rate=0.0), "learning_rate 0.0"),
    (dict(learning_rate=float("nan")), "learning_rate nan"),
    (dict(adam_b1=1.0), "adam_b1 1.0"),
    (dict(adam_b2=-0.1), "adam_b2 -0.1"),
    (dict(weight_decay=-1.0), "weight_decay -1.0"),
    (dict(clip_norm=-1.0), "clip_norm -1.0"),
    (dict(projection_rate=-1.0), "projection_rate -1.0"),
  ],
)
def test_values_out_of_range_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    optimizer.create(group(**changes), 10)


@pytest.mark.parametrize(
  # 2 layers, 2 heads of 16, n = 32, k = 8
  "attention, changes, projection_size",
  [
    ("linformer", {"attention.sharing": "none"}, 2 * 2 * 2 * 8 * 32),
    ("linformer", {"attention.sharing": "layerwise"}, 8 * 32),
    (
      "linformer",
      {"attention.projection": "convolution", "model.scan_layers": False},
      2 * 2 * (32 // 8) * 16**2,
    ),
    ("softmax", {"model.norm_position": "pre"}, 0),
    ("local", {}, 0),
    ("linear", {}, 0),
    ("transformer_ls", {}, 0),
    ("luna", {}, 0),
    ("fnet", {}, 0),
    ("local+linformer", {}, 2 * 8 * 32),
  ],
)
def test_kernels_and_embeddings_decay_and_nothing_else(
  attention, changes, projection_size
):
  config = tiny.get_config(attention)
  config.update_from_flattened_dict(changes)
  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  params = steps.abstract_state.params
  decays = jax.tree_util.tree_leaves_with_path(optimizer.decayed(params))
  leaves = jax.tree.leaves(params)
  assert len(decays) == len(leaves)
  names = {True: set(), False: set()}
  for path, decay in decays:
    names[decay].add(path[-1].key)
  names[True].discard("window_kernel")  # of a convolution
  assert names[True] == {"kernel", "embedding", "positions"}
  assert names[False] == {"bias", "scale", "head_bias"}
  projections = [
    decay
    for path, decay in decays
    if "projection" in jax.tree_util.keystr(path)
  ]
  assert all(projections)
  assert bool(projections) == ("linformer" in attention)
  picked = jax.tree.leaves(optimizer.projections(params))
  sizes = [leaf.size for leaf, pick in zip(leaves, picked, strict=True) if pick]
  assert sum(sizes) == projection_size


def adamw(config, num_steps, params, gradients):
  """AdamW (Loshchilov and Hutter 2019, algorithm 2) in float64."""
  params = {name: np.float64(value) for name, value in params.items()}
  mean = {name: np.zeros_like(value) for name, value in params.items()}
  square = {name: np.zeros_like(value) for name, value in params.items()}
  peak, warmup = config.learning_rate, config.warmup_steps
  for t, gradient in enumerate(gradients, start=1):
    norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradient.values()))
    clip = config.clip_norm
    scale = min(1, clip / norm) if clip else 1
    rate = peak * min(t / warmup, (num_steps - t + 1) / (num_steps - warmup), 1)
    for name in params:
      g = np.float64(gradient[name]) * scale
      mean[name] = config.adam_b1 * mean[name] + (1 - config.adam_b1) * g
      square[name] = config.adam_b2 * square[name] + (1 - config.adam_b2) * g**2
      m = mean[name] / (1 - config.adam_b1**t)
      v = square[name] / (1 - config.adam_b2**t)
      decay = config.weight_decay * params[name] if name == "kernel" else 0
      step = m / (np.sqrt(v) + config.adam_epsilon) + decay
      params[name] = params[name] - rate * step
  return params


@pytest.mark.parametrize(
  "clip, decay", [(0.0, 0.0), (0.0, 0.1), (0.7, 0.0), (100.0, 0.1)]
)
def test_updates_equal_adamw_by_hand(clip, decay):
  config = group(
    learning_rate=0.1, warmup_steps=2, clip_norm=clip, weight_decay=decay
  )
  num_steps = 5
  rng = np.random.default_rng(0)
  shapes = {"kernel": (4, 3), "bias": (3,)}

  def draw(scale):
    return {
      name: np.float32(scale * rng.standard_normal(shape))
      for name, shape in shapes.items()
    }

  params = draw(1)
  gradients = [draw(scale) for scale in (1, 0.1, 3, 1, 1e-4)]
  wanted = adamw(config, num_steps, params, gradients)
  tx = optimizer.create(config, num_steps)
  state = tx.init(params)
  for gradient in gradients:
    updates, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  for name in params:
    # Five updates of size 0.1, each off by a few float32 roundings of about 1.
    np.testing.assert_allclose(params[name], wanted[name], rtol=0, atol=3e-6)


def first_updates(gradient_of_e=3.0, **changes):
  """Updates of an E and of another kernel, by one step of the optimizer."""
  params = {
    "key_projection": {"kernel": jnp.full((2, 3), 0.5)},
    "key": {"kernel": jnp.full((3, 3), 0.5)},
  }
  gradients = {
    "key_projection": {"kernel": jnp.full((2, 3), gradient_of_e)},
    "key": {"kernel": jnp.full((3, 3), 0.2)},
  }
  # An epsilon of 1: an update depends on the size of its gradient.
  config = group(warmup_steps=0, adam_epsilon=1.0, weight_decay=0.1, **changes)
  tx = optimizer.create(config, 10)
  updates, _ = tx.update(gradients, tx.init(params), params)
  return updates["key_projection"]["kernel"], updates["key"]["kernel"]


@pytest.mark.parametrize("rate", [0.0, 0.25, 4.0])
def test_projections_have_a_rate_of_their_own(rate):
  """Times `rate`, weight decay with it, and all else as it was."""
  e, other = first_updates(projection_rate=rate)
  e_before, other_before = first_updates()
  np.testing.assert_array_equal(e, rate * e_before)  # powers of two: exact
  np.testing.assert_array_equal(other, other_before)


def test_frozen_projections_have_no_part_in_clipping():
  frozen = dict(projection_rate=0.0, clip_norm=0.5)
  _, alone = first_updates(gradient_of_e=0.0, clip_norm=0.5)
  _, beside = first_updates(gradient_of_e=3.0, **frozen)
  _, clipped = first_updates(gradient_of_e=3.0, clip_norm=0.5)
  np.testing.assert_array_equal(beside, alone)
  assert not np.allclose(clipped, alone)

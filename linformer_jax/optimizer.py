"""RoBERTa's optimizer: AdamW, linear warm-up and decay, as an optax chain."""

import itertools

import jax
import optax

# Leaves that weight decay leaves alone: biases and layer norms.
_NOT_DECAYED = ("bias", "scale", "head_bias")


def learning_rate(config, num_steps: int, restarts=()) -> optax.Schedule:
  """Linear warm-up to the peak and linear decay towards 0 at `num_steps`.

  A run that was extended does so again from each of its restarts.

  Args:
    config: the `optimizer` group of a config.
    num_steps: updates in all.
    restarts: ascending updates at which a complete run was extended.

  Returns:
    The rate of the update after `count` updates; never 0 itself, so that no
    update is wasted.

  Raises:
    ValueError: when the warm-up is longer than the run or an extension of it.
  """
  if not config.learning_rate > 0:
    raise ValueError(
      f"optimizer.learning_rate {config.learning_rate} must be positive"
    )
  bounds = [0, *restarts, num_steps]
  cycles = [
    _cycle(config, stop - start, "the extension's updates" * (start > 0))
    for start, stop in itertools.pairwise(bounds)
  ]
  return optax.join_schedules(cycles, restarts)


def _cycle(config, num_steps, what):
  """The schedule from one start to its 0, over `num_steps` updates."""
  peak, warmup = config.learning_rate, config.warmup_steps
  if not 0 <= warmup < num_steps:
    raise ValueError(
      f"optimizer.warmup_steps {warmup} must be at least 0 and below "
      f"{what or 'train.num_steps'} {num_steps}"
    )

  def schedule(count):
    up = (count + 1) / max(warmup, 1)
    down = (num_steps - count) / (num_steps - warmup)
    return peak * jax.numpy.clip(jax.numpy.minimum(up, down), 0.0, 1.0)

  return schedule


def decayed(params):
  """True at the leaves that weight decay shrinks: kernels, E, embeddings."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in _NOT_DECAYED, params
  )


def projections(params):
  """True at E and F, and at the kernels of a convolution in their place."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: any(part.key.endswith("projection") for part in path),
    params,
  )


def create(config, num_steps: int, restarts=()) -> optax.GradientTransformation:
  """AdamW with the schedule, decay mask and clipping of `config`.

  The updates of E and F, weight decay among them, are `projection_rate` times
  what they would be. At 0 they are frozen, and their gradients have no part in
  the norm that is clipped.

  Raises:
    ValueError: for values outside their range.
  """
  for name in ("adam_b1", "adam_b2"):
    if not 0 <= config[name] < 1:
      raise ValueError(f"optimizer.{name} {config[name]} must lie in [0, 1)")
  for name in ("weight_decay", "clip_norm", "projection_rate"):
    if config[name] < 0:
      raise ValueError(f"optimizer.{name} {config[name]} must be 0 or more")
  clip = [optax.clip_by_global_norm(config.clip_norm)] * bool(config.clip_norm)
  rate = config.projection_rate
  scale = [optax.masked(optax.scale(rate), projections)] * (rate != 1)
  return optax.chain(
    *scale * (rate == 0),
    *clip,
    optax.adamw(
      learning_rate(config, num_steps, restarts),
      b1=config.adam_b1,
      b2=config.adam_b2,
      eps=config.adam_epsilon,
      weight_decay=config.weight_decay,
      mask=decayed,
    ),
    *scale,
  )

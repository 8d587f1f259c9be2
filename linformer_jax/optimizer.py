"""RoBERTa's optimizer: AdamW with linear warmup and decay, in optax."""

import itertools

import jax
import optax
from flax import traverse_util

from linformer_jax import attention

# Leaves without weight decay: biases and layer norms.
_NOT_DECAYED = ("bias", "scale", "head_bias")


def learning_rate(config, num_steps: int, restarts=()) -> optax.Schedule:
  """Linear warmup to the peak, then linear decay toward 0 at `num_steps`.

  An extended run repeats this cycle from each restart.

  Args:
    config: the `optimizer` group of a config.
    num_steps: total updates.
    restarts: ascending updates at which a complete run was extended.

  Returns:
    A schedule from completed updates to the next update's rate, which is never
    0.

  Raises:
    ValueError: if the warmup is longer than the run or an extension of it.
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
  """Returns one warmup and decay cycle over `num_steps` updates."""
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
  """True at leaves with weight decay: kernels, E, F and embeddings."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in _NOT_DECAYED, params
  )


def is_projection(path: str) -> bool:
  """Whether a path is of `AttentionConfig.projections`, such as E and F."""
  kinds = attention.ATTENTIONS.values()
  ends = tuple(itertools.chain(*(kind.projections for kind in kinds)))
  return any(part.endswith(ends) for part in path.split("/"))


def projections(params):
  """True at parameters that project the sequence; see `is_projection`."""
  return traverse_util.path_aware_map(
    lambda path, _: is_projection("/".join(path)), params
  )


def create(config, num_steps: int, restarts=()) -> optax.GradientTransformation:
  """Returns AdamW with the schedule, decay mask and clipping of `config`.

  Updates of E and F, weight decay included, are scaled by `projection_rate`. At
  0 they are frozen and their gradients do not count in the clipped norm.

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

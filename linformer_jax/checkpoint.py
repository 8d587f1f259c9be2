"""Orbax checkpoints: state, place in the data, config, and a fingerprint.

A checkpoint is trusted only when the fingerprint of what was read equals that
of what was saved: storage formats do not notice every flipped byte.
"""

import pathlib
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

# What reading a damaged file can raise: a malformed value or JSON, a file or a
# key that is missing, a tree of another form.
_DAMAGE = (ValueError, OSError, KeyError, TypeError)


class CheckpointError(Exception):
  """No checkpoint of a run can be read."""


def _leaf_fingerprint(x):
  """Position-weighted sum of the bits of an array, modulo 2^32.

  Integer sums do not depend on their order, so neither on the sharding.
  """
  width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32).ravel()
  # Odd weights are invertible modulo 2^32: one changed value always shows.
  weights = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
  return jnp.sum(bits * weights, dtype=jnp.uint32)


@jax.jit
def _fingerprints(state):
  return [_leaf_fingerprint(leaf) for leaf in jax.tree.leaves(state)]


def fingerprint(state) -> list[int]:
  """One integer a leaf, equal for equal bits whatever the sharding."""
  return [int(x) for x in np.asarray(jax.device_get(_fingerprints(state)))]


class Checkpoints:
  """The checkpoints of one run, in <workdir>/checkpoints; use as a context."""

  def __init__(self, workdir, keep: int):
    self._directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.close()

  def steps(self) -> list[int]:
    """Updates at which there is a checkpoint."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state, iterator, meta: dict):
    """Starts to save; training may go on meanwhile. No-op when it is there.

    Args:
      step: updates completed.
      state: a TrainState.
      iterator: the grain iterator, at the batch of the next update.
      meta: JSON of the config and what else shall come back.
    """
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=grain.checkpoint.CheckpointSave(iterator),
        meta=ocp.args.JsonSave(meta | {"fingerprint": fingerprint(state)}),
      ),
    )

  def wait(self):
    """Returns when all that was saved is on disk."""
    self._manager.wait_until_finished()

  def _restore_step(self, step, abstract_state, iterator):
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state),
        data=grain.checkpoint.CheckpointRestore(iterator),
        meta=ocp.args.JsonRestore(),
      ),
    )
    if fingerprint(restored.state) != restored.meta["fingerprint"]:
      raise ValueError("the arrays differ from those that were saved")
    return restored.state, restored.data, restored.meta

  def restore(self, abstract_state, iterator):
    """The newest checkpoint that is whole.

    Damaged ones are reported and set aside as damaged-<step>, once an older one
    has been read.

    Args:
      abstract_state: TrainState of shapes and shardings to restore to.
      iterator: a fresh data iterator, which is moved to its place.

    Returns:
      (state, iterator, meta), or None when nothing has been saved.

    Raises:
      CheckpointError: when there are checkpoints and none can be read.
    """
    damaged = []
    for step in reversed(self.steps()):
      try:
        found = self._restore_step(step, abstract_state, iterator)
      except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        print(
          f"checkpoint {step} is damaged and is left out: {reason}",
          file=sys.stderr,
          flush=True,
        )
        damaged.append(step)
        continue
      self._set_aside(damaged)
      return found
    if damaged:
      raise CheckpointError(
        f"none of the checkpoints {damaged} in {self._directory} can be read; "
        "nothing was changed. Restore that folder from a copy, or start anew "
        "with --new"
      )
    return None

  def _set_aside(self, steps):
    if jax.process_index() == 0:
      for step in steps:
        path = self._directory / str(step)
        path.rename(self._directory.parent / f"damaged-{step}")
    if steps:
      self._manager.reload()

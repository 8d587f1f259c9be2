"""Orbax checkpoints: a state, a note of what belongs to it, and checksums.

A checkpoint is trusted only when what is read has the checksums of what was
saved, as storage formats do not notice every flipped byte. Those of the files
are looked at before anything is parsed: given a damaged file, parsers fail in
ways that help nobody. The fingerprint of the arrays tells whether what went to
disk is what was in memory.
"""

import contextlib
import json
import os
import re
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from linformer_jax.run import files

_CHECKSUMS = "checksums.json"


class CheckpointError(Exception):
  """No checkpoint of a run can be read, or one cannot be written."""


def _reason(error) -> str:
  """The start of an error's message, on one line, or what it is a code for."""
  if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
    return os.strerror(int(code[1]))
  return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _leaf_fingerprint(x):
  """Position-weighted sum of the bits of an array, modulo 2^32.

  Integer sums do not depend on their order, so neither on the sharding.
  """
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  # Of 8 bytes (jax_enable_x64) each half is a number.
  width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
  bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
  # The place in the flat array, made without one, which would be gathered.
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    place = place * np.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, bits.shape, axis
    )
  # Odd weights are invertible modulo 2^32: one changed value always shows.
  return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


@jax.jit
def _fingerprints(state):
  return jnp.stack([_leaf_fingerprint(leaf) for leaf in jax.tree.leaves(state)])


def fingerprint(state) -> list[int]:
  """One integer a leaf, equal for equal bits whatever the sharding."""
  return jax.device_get(_fingerprints(state)).tolist()


def _file_checksums(folder) -> dict[str, int]:
  """CRC-32 of the files of the saved items, by their names."""
  found = {}
  for path in files.below(folder):
    if path.parent != folder:  # Orbax adds to the folder itself
      crc = 0
      with path.open("rb") as file:
        while block := file.read(2**24):
          crc = zlib.crc32(block, crc)
      found[str(path.relative_to(folder))] = crc
  return found


class Checkpoints:
  """The checkpoints of one run, in <workdir>/checkpoints; use as a context."""

  def __init__(self, workdir, keep: int = 1, read_only: bool = False):
    """Opens or makes the folder.

    Args:
      workdir: folder of the run.
      keep: how many of the newest stay; older ones are deleted once a newer one
        is on disk.
      read_only: change nothing, as another process may be saving there.
    """
    workdir = files.folder(workdir)
    if not files.in_bucket(workdir):
      workdir = workdir.absolute()
    self._directory = workdir / "checkpoints"
    self._keep = keep
    self._read_only = read_only
    self._saving = None  # the newest step on its way to the disk
    if not read_only and jax.process_index() == 0:
      # Of a kill. Orbax would do so in a thread that a second manager races.
      for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
        files.remove(path)
    self._manager = self._open()

  def _open(self):
    return ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(self._keep),
        create=not self._read_only,
        read_only=self._read_only,
        save_interval_steps=0 if self._read_only else 1,
        # Opening reads no file, so damage is met where it is handled.
        lightweight_initialize=True,
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._write_checksums
        ),
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    failed = kind is not None and issubclass(kind, jax.errors.JaxRuntimeError)
    if failed and jax.process_count() > 1:
      return  # closing waits for all processes, and one may be dead
    with self._writing():
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    """What goes wrong in Orbax's threads is raised by a later call of it."""
    try:
      yield
    except (ValueError, OSError) as error:
      raise CheckpointError(
        f"checkpoint {self._saving} cannot be written, those before it are "
        f"kept: {_reason(error)}"
      ) from error

  def steps(self) -> list[int]:
    """Updates at which there is a checkpoint."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state, note: dict):
    """Starts to save; training may go on meanwhile. No-op when it is there.

    Args:
      step: updates completed.
      state: a tree of arrays, which may be donated once this returns.
      note: JSON of what belongs to it: the place in the data, the config.
    """
    if step in self._manager.all_steps():
      return
    self.wait()  # as Orbax does anyway
    self._saving = step
    note = note | {"fingerprint": fingerprint(state)}
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), note=ocp.args.JsonSave(note)
        ),
        force=True,  # whether it is due is for the caller to say
      )

  def _write_checksums(self):
    """Called by Orbax on the first process, in the thread that saves.

    The items are complete, the folder has its temporary name: the renaming that
    makes it a checkpoint makes the checksums part of it.
    """
    step = str(self._saving)
    entries = self._directory.iterdir()
    [folder] = [path for path in entries if path.name.split(".")[0] == step]
    text = json.dumps(_file_checksums(folder), indent=1)
    (folder / _CHECKSUMS).write_text(text)

  def wait(self):
    """Returns when all that was saved is on disk.

    Raises:
      CheckpointError: when it cannot be written, e.g. to a full disk.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def _check_files(self, step):
    folder = self._directory / str(step)
    expected = json.loads((folder / _CHECKSUMS).read_text())
    found = _file_checksums(folder)
    for name, crc in expected.items():
      if found.get(name) != crc:
        raise ValueError(f"{name} is {'changed' if name in found else 'gone'}")

  def _read(self, step, abstract_state):
    problem = None
    try:
      self._check_files(step)
    except (ValueError, OSError) as error:
      problem = error
    # Reading is for all processes together, or one would wait for the others.
    if jax.process_count() > 1:
      sound = multihost_utils.process_allgather(np.array(problem is None))
      if not problem and not sound.all():
        problem = ValueError(
          f"process {int(np.argmin(sound))} finds its files damaged"
        )
    if problem:
      raise problem
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state),
        note=ocp.args.JsonRestore(),
      ),
    )
    note = dict(restored.note)
    if note.pop("fingerprint") != fingerprint(restored.state):
      raise ValueError("the arrays are not those that were to be saved")
    return restored.state, note

  def restore(self, abstract_state, step: int | None = None):
    """The newest checkpoint that is whole, or that of one step.

    Damaged ones are reported; once an older one has been read they are set
    aside, as damaged-<step> in the folder of the run.

    Args:
      abstract_state: the tree of shapes and shardings to restore to.
      step: updates completed, or None for the newest.

    Returns:
      (state, note), or None when nothing has been saved.

    Raises:
      CheckpointError: when there are checkpoints and none can be read, or none
        is of the step that is wanted.
    """
    steps, damaged = self.steps(), []
    if step is not None:
      if step not in steps:
        raise CheckpointError(
          f"there is no checkpoint {step} in {self._directory}, only {steps}"
        )
      steps = [step]
    for step in reversed(steps):
      try:
        found = self._read(step, abstract_state)
      except (ValueError, OSError) as error:
        if jax.process_index() == 0:
          print(
            f"checkpoint {step} is damaged and is left out: {_reason(error)}",
            file=sys.stderr,
            flush=True,
          )
        damaged.append(step)
        continue
      if damaged and not self._read_only:
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
    """Makes room for these steps to be saved again, and deletes nothing."""
    self._manager.close()
    if jax.process_index() == 0:
      for step in steps:
        target, number = self._directory.parent / f"damaged-{step}", 1
        while target.exists():
          number += 1
          target = target.with_name(f"damaged-{step}-{number}")
        (self._directory / str(step)).rename(target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("damaged checkpoints set aside")
    self._manager = self._open()

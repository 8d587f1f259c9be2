"""Orbax checkpoints: a state, a JSON note about it, and checksums.

A checkpoint is used only if its checksums match, as storage formats do not
detect every flipped byte. File checksums are compared before anything is
parsed, as the errors of parsers on damaged files are obscure. A fingerprint of
the arrays verifies that the disk holds what was in memory.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from linformer_jax.run import files, fingerprints

_CHECKSUMS = "checksums.json"
fingerprint = fingerprints.fingerprint


class CheckpointError(Exception):
  """No checkpoint of a run can be read, or one cannot be written."""


def _reason(error) -> str:
  """Returns the start of an error's message, or the meaning of its code."""
  if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
    return os.strerror(int(code[1]))
  return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _file_checksums(folder) -> dict[str, int]:
  """Returns the CRC-32 of each file of the saved items, by name."""
  found = {}
  for path in files.below(folder):
    if path.parent != folder:  # Orbax adds files to the folder itself.
      crc = 0
      with path.open("rb") as file:
        while block := file.read(2**24):
          crc = zlib.crc32(block, crc)
      found[str(path.relative_to(folder))] = crc
  return found


@dataclasses.dataclass
class _Step(checkpoint_managers.PreservationPolicy):
  """Preserves the checkpoint of one step, which may change."""

  step: int | None = None

  def should_preserve(self, checkpoints, *, context):
    del context
    return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
  """The checkpoints in <workdir>/checkpoints; a context manager."""

  def __init__(self, workdir, keep: int = 1, read_only: bool = False):
    """Opens or makes the folder.

    Args:
      workdir: the run's folder.
      keep: the number of checkpoints to keep; older ones are deleted once a
        newer one is on disk.
      read_only: change nothing, as another process may be saving there.
    """
    workdir = files.folder(workdir)
    if not files.in_bucket(workdir):
      workdir = workdir.absolute()
    self._directory = workdir / "checkpoints"
    self._keep = keep
    self._read_only = read_only
    self._saving = None  # The last step to be saved.
    self._best = _Step()
    if not read_only and jax.process_index() == 0:
      # Left by a kill. Orbax removes them in a thread, which would race with a
      # second manager.
      for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
        files.remove(path)
    self._manager = self._open()

  def _open(self):
    return ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(
          [checkpoint_managers.LatestN(self._keep), self._best]
        ),
        create=not self._read_only,
        read_only=self._read_only,
        save_interval_steps=0 if self._read_only else 1,
        # Opening reads no file, so damage is found where it is handled.
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
      return  # Closing waits for all processes, and one may be dead.
    with self._writing():
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    """Raises a CheckpointError for Orbax's errors, also from its threads."""
    try:
      yield
    except (ValueError, OSError) as error:
      raise CheckpointError(
        f"checkpoint {self._saving} cannot be written, those before it are "
        f"kept: {_reason(error)}"
      ) from error

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints, sorted."""
    return sorted(self._manager.all_steps())

  def keep(self, step: int | None):
    """Keeps the checkpoint of a step in addition to the newest ones.

    Args:
      step: updates completed; that of the last call is no longer kept.
    """
    self._best.step = step

  def save(self, step: int, state, note: dict):
    """Starts to save in the background, unless the checkpoint exists.

    Args:
      step: updates completed.
      state: a tree of arrays, which may be donated once this returns.
      note: JSON that belongs to the state: position in the data, config.
    """
    if step in self._manager.all_steps():
      return
    self.wait()  # Orbax would wait anyway.
    self._saving = step
    note = note | {"fingerprint": fingerprint(state)}
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), note=ocp.args.JsonSave(note)
        ),
        force=True,  # The caller decides whether a checkpoint is due.
      )

  def _write_checksums(self):
    """Called by Orbax on the first process, in the thread that saves.

    The items are complete, but the folder still has its temporary name, so the
    rename that completes the checkpoint includes the checksums.
    """
    step = str(self._saving)
    entries = self._directory.iterdir()
    [folder] = [path for path in entries if path.name.split(".")[0] == step]
    text = json.dumps(_file_checksums(folder), indent=1)
    (folder / _CHECKSUMS).write_text(text)

  def wait(self):
    """Waits until the last checkpoint is on disk.

    Raises:
      CheckpointError: if it cannot be written, e.g. to a full disk.
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
    # All processes must restore, or none; otherwise some would wait forever.
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
      raise ValueError("the arrays differ from those that were saved")
    return restored.state, note

  def restore(self, abstract_state, step: int | None = None):
    """Restores the newest undamaged checkpoint, or that of one step.

    Damaged checkpoints are reported. Once an older one has been read, they are
    set aside as damaged-<step> in the run's folder.

    Args:
      abstract_state: the tree of shapes and shardings to restore to.
      step: updates completed, or None for the newest.

    Returns:
      (state, note), or None if there is no checkpoint.

    Raises:
      CheckpointError: if there are checkpoints but none can be read, or none is
        of the requested step.
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
            f"checkpoint {step} is damaged and skipped: {_reason(error)}",
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
    """Renames damaged checkpoints, so that their steps can be saved again."""
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

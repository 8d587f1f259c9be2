"""Checkpoints: what is read is what was saved, or is said to be damaged."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax.run import checkpoint
from tests import runs


def make_state(step):
  """A tree like a TrainState: several dtypes, an empty part, odd values."""
  return {
    "step": jnp.int32(step),
    "params": {
      "kernel": jax.random.normal(jax.random.key(step), (40, 30)),
      "bias": jnp.array([0.0, -0.0, 1e-40, jnp.pi], jnp.float32),
    },
    "constants": {},
    "opt_state": (jnp.full((7,), step, jnp.bfloat16), jnp.array([True, False])),
  }


def make_note(step):
  return {"data": {"next_index": step}, "busy": step + 0.1, "lengths": (8, 4)}


def abstract(sharding=None):
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    make_state(0),
  )


def save(workdir, *steps, keep=3):
  with checkpoint.Checkpoints(workdir, keep) as saved:
    for step in steps:
      saved.save(step, make_state(step), make_note(step))


def restore(workdir, **kwargs):
  """(step, or None for nothing) after checking all that was read."""
  with checkpoint.Checkpoints(workdir, 3, **kwargs) as saved:
    found = saved.restore(abstract())
  if found is None:
    return None
  state, note = found
  step = int(state["step"])
  runs.assert_same_bits(state, make_state(step))
  assert note == json.loads(json.dumps(make_note(step)))
  return step


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  """A folder with checkpoints of steps 1, 2 and 3; copy before changing it."""
  folder = tmp_path_factory.mktemp("sound")
  save(folder, 1, 2, 3)
  return folder


@pytest.fixture
def workdir(sound, tmp_path):
  return shutil.copytree(sound, tmp_path / "run")


def content(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_saved_is_nothing_restored(tmp_path):
  assert restore(tmp_path) is None


def test_newest_comes_back_to_the_last_bit(workdir):
  assert restore(workdir) == 3


def test_only_the_newest_are_kept(tmp_path):
  save(tmp_path, *range(6), keep=2)
  with checkpoint.Checkpoints(tmp_path, 2) as saved:
    assert saved.steps() == [4, 5]


def test_a_step_on_disk_is_not_saved_again(workdir):
  before = content(workdir)
  save(workdir, 3)
  assert content(workdir) == before


def test_donated_arrays_are_saved_as_they_were(tmp_path):
  """Saving is asynchronous; the update that follows reuses the memory."""

  def update(state):
    return jax.tree.map(lambda x: x + 1, state)

  update = jax.jit(update, donate_argnums=0)
  state = update(
    {"a": jnp.zeros(500_000), "b": jnp.zeros(3), "c": jnp.int32(0)}
  )
  given = state["a"].unsafe_buffer_pointer()
  state = update(state)
  assert state["a"].unsafe_buffer_pointer() == given  # donated in earnest
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  with checkpoint.Checkpoints(tmp_path, keep=20) as saved:
    for step in range(2, 14):
      saved.save(step, state, {})
      for _ in range(20):  # while the checkpoint is being written
        state = update(state)
    saved.wait()
    for i, step in enumerate(range(2, 14)):
      restored, _ = saved._read(step, like)
      for leaf in jax.tree.leaves(restored):
        np.testing.assert_array_equal(leaf, 2 + 20 * i)


def test_fingerprint_shows_one_bit_and_a_swap():
  state = make_state(1)
  before = checkpoint.fingerprint(state)
  assert checkpoint.fingerprint(make_state(1)) == before
  kernel = np.array(state["params"]["kernel"])
  bits = kernel.view(np.uint32)
  for row, column, bit in [(0, 0, 0), (39, 29, 31), (17, 3, 12)]:
    bits[row, column] ^= np.uint32(1) << bit
    changed = state | {"params": state["params"] | {"kernel": kernel}}
    assert checkpoint.fingerprint(changed) != before
    bits[row, column] ^= np.uint32(1) << bit
  swapped = state | {"params": state["params"] | {"kernel": kernel[::-1]}}
  assert checkpoint.fingerprint(swapped) != before


def files_of_newest(folder):
  newest = folder / "checkpoints" / "3"
  return sorted(p for p in newest.rglob("*") if p.is_file())


def damages(file, rng):
  """Ways to damage a file: new contents, None for none at all."""
  data = bytearray(file.read_bytes())
  yield "truncated", bytes(data[: len(data) // 2])
  yield "emptied", b""
  yield "missing", None
  # The ends and two places between: headers, footers and what they are about.
  places = {0, len(data) - 1, *rng.integers(len(data), size=2).tolist()}
  for place in sorted(places):
    flip = 1 << int(rng.integers(8))
    data[place] ^= flip
    yield f"flipped at {place}", bytes(data)
    data[place] ^= flip


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_damage_to_any_file_is_harmless_or_reported(sound, workdir, capsys):
  """Never a traceback, never arrays or a note that differ in silence."""
  rng = np.random.default_rng(0)
  harmless = reported = 0
  for file in files_of_newest(workdir):
    whole = file.read_bytes()
    for how, data in damages(file, rng):
      file.unlink()
      if data is not None:
        file.write_bytes(data)
      # Reading only, so that the folder stays as it is for the next damage.
      step = restore(workdir, read_only=True)
      err = capsys.readouterr().err
      if step == 3:
        assert not err and file.parent.name == "3", (file, how)
        harmless += 1
      else:
        assert step == 2, (file, how)
        assert err.startswith("checkpoint 3 is damaged and skipped: ")
        assert err.count("\n") == 1, err
        reported += 1
      file.write_bytes(whole)
  assert reported > 50 and harmless
  assert restore(workdir) == 3


def test_arrays_that_are_not_those_in_memory(workdir, monkeypatch, capsys):
  """Whole files of wrong content, as a race with the next update would make."""
  with monkeypatch.context() as patch:
    other = checkpoint.fingerprint(make_state(5))
    patch.setattr(checkpoint, "fingerprint", lambda _: other)
    save(workdir, 4)
  assert restore(workdir) == 3
  assert "checkpoint 4 is damaged" in capsys.readouterr().err


def damage(workdir, *steps):
  """Truncates the arrays of checkpoints."""
  for step in steps:
    folder = workdir / "checkpoints" / str(step) / "state"
    for file in folder.rglob("d/*"):
      file.write_bytes(file.read_bytes()[:-10])


def test_after_damage_the_same_step_is_saved_again(workdir, capsys):
  damage(workdir, 3)
  assert restore(workdir) == 2
  assert (workdir / "damaged-3" / "state").is_dir()  # set aside, not deleted
  capsys.readouterr()
  save(workdir, 3, 4)
  assert restore(workdir) == 4
  assert not capsys.readouterr().err
  damage(workdir, 3, 4)
  assert restore(workdir) == 2
  names = sorted(p.name for p in workdir.glob("damaged-*"))
  assert names == ["damaged-3", "damaged-3-2", "damaged-4"]


def test_damaged_checkpoints_do_not_push_out_the_good_one(workdir):
  """Of three kept, two are damaged: one save later the good one is there."""
  damage(workdir, 2, 3)
  with checkpoint.Checkpoints(workdir, keep=2) as saved:
    state, _ = saved.restore(abstract())
    assert int(state["step"]) == 1
    saved.save(2, make_state(2), make_note(2))
    saved.wait()
    assert saved.steps() == [1, 2]
  damage(workdir, 2)
  assert restore(workdir) == 1


def test_a_disk_that_is_full(workdir, monkeypatch):
  def no_space(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "_file_checksums", no_space)
    with pytest.raises(
      checkpoint.CheckpointError, match="checkpoint 4 cannot .* No space left"
    ):
      save(workdir, 4)
  assert restore(workdir) == 3
  save(workdir, 4)
  assert restore(workdir) == 4


def test_an_error_of_tensorstore_is_told_by_its_cause():
  text = 'RESOURCE_EXHAUSTED: Error writing file "/long/name" ' * 5
  error = ValueError(f"{text}: No sp... [os_error_code='{errno.ENOSPC}']")
  assert checkpoint._reason(error) == "No space left on device"
  assert checkpoint._reason(ValueError("a\n b")) == "ValueError: a b"


def test_when_none_can_be_read_nothing_is_deleted(workdir, capsys):
  damage(workdir, 1, 2, 3)
  before = content(workdir)
  with pytest.raises(checkpoint.CheckpointError, match=r"\[3, 2, 1\].*--new"):
    restore(workdir)
  assert content(workdir) == before
  err = capsys.readouterr().err
  assert [line.split()[1] for line in err.splitlines()] == ["3", "2", "1"]


def test_an_empty_step_and_leftovers_of_a_kill(workdir, capsys):
  folder = workdir / "checkpoints"
  (folder / "7").mkdir()
  leftover = folder / "8.orbax-checkpoint-tmp"
  shutil.copytree(folder / "3", leftover)
  (leftover / "commit_success.txt").unlink()
  assert restore(workdir) == 3
  assert capsys.readouterr().err.startswith("checkpoint 7 is damaged")
  save(workdir, 7, 9)
  assert not leftover.exists()  # or every kill would cost a state of disk
  assert restore(workdir) == 9


def test_reading_only_changes_nothing(workdir):
  (workdir / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()  # being saved
  damage(workdir, 3)
  before = content(workdir)
  assert restore(workdir, read_only=True) == 2
  assert content(workdir) == before
  assert (workdir / "checkpoints" / "9.orbax-checkpoint-tmp").exists()


@pytest.mark.parametrize("bad", [b"", b"{", b"[1]", b"\xff", b'{"a": 1}'])
def test_damaged_orbax_metadata_of_every_step(workdir, bad):
  """What Orbax reads when a manager is made is not what it is made of."""
  for file in workdir.rglob("_CHECKPOINT_METADATA"):
    file.write_bytes(bad)
  assert restore(workdir) in (1, 2, 3)

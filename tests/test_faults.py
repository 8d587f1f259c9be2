"""The fault campaign: what it does to files and processes, how it judges."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from experiments.faults import (
  around,
  campaign,
  compare,
  damage,
  disk,
  rights,
  stops,
)
from experiments.faults import lab as lab_lib


def differing_bits(one, other):
  found = []
  for i, (a, b) in enumerate(zip(one, other, strict=True)):
    found += [i] * (a ^ b).bit_count()
  return found


def test_damage_is_what_it_is_called():
  data = bytes(range(100))
  rng = random.Random(0)
  places = {
    "first byte flipped": {0},
    "middle byte flipped": {50},
    "last byte flipped": {99},
    "random byte flipped": set(range(100)),
  }
  for way, allowed in places.items():
    for _ in range(5):
      (place,) = differing_bits(damage.WAYS[way](data, rng), data)
      assert place in allowed
  assert damage.WAYS["cut to half"](data, rng) == data[:50]
  assert damage.WAYS["emptied"](data, rng) == b""
  assert set(damage.WAYS) == {*places, "cut to half", "emptied", "deleted"}


def test_harm_and_the_ways_of_a_file(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"")
  assert damage.ways(path) == ["deleted"]
  path.write_bytes(b"abcd")
  assert len(damage.ways(path)) == 7
  damage.harm(path, "cut to half", random.Random(0))
  assert path.read_bytes() == b"ab"
  damage.harm(path, "deleted", random.Random(0))
  assert not path.exists()


def test_a_file_has_one_role_in_every_checkpoint(tmp_path):
  for step, names in {"5": ("0a" * 16, "1b" * 16), "10": "fe"}.items():
    folder = tmp_path / step / "state" / "d"
    folder.mkdir(parents=True)
    for size, name in enumerate(names):
      (folder / (name * 16)[:32]).write_bytes(bytes(size))
    (tmp_path / step / "_METADATA").write_text("{}")
  for step in ("5", "10"):
    found = damage.roles(tmp_path / step)
    sizes = {name: path.stat().st_size for name, path in found.items()}
    assert sizes == {"_METADATA": 2, "state/d/*[0]": 0, "state/d/*[1]": 1}


def test_a_limit_and_a_folder_without_rights_bind_even_root(tmp_path):
  write = (
    "import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(bytes(2000))"
  )

  def status(before, name):
    command = [*before, sys.executable, "-c", write, str(tmp_path / name)]
    return subprocess.run(command, capture_output=True, text=True)

  assert status(disk.limited(2000), "a").returncode == 0
  assert "File too large" in status(disk.limited(1999), "b").stderr
  with rights.unwritable(tmp_path):
    assert "Permission denied" in status(rights.OBEDIENT, "c").stderr
    assert "Permission denied" in status(rights.OBEDIENT, "a").stderr
  assert status(rights.OBEDIENT, "c").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting is for root")
def test_a_small_disk_is_filled_to_the_last_byte(tmp_path):
  if not disk.can_mount(tmp_path / "mount"):
    pytest.skip("no right to mount")
  options = ("-t", "tmpfs", "-o", "size=64k", "tmpfs")
  with disk.mounted(tmp_path / "disk", *options) as folder:
    disk.fill(folder / "filler")
    assert (folder / "filler").stat().st_size >= 2**15
    with pytest.raises(OSError, match="No space left"):
      (folder / "more").write_bytes(bytes(1))
  assert not list((tmp_path / "disk").iterdir())


def test_the_clock_jumps_once_the_file_is_there(tmp_path):
  trigger = tmp_path / "trigger"
  code = (
    "import pathlib, time; print(time.time()); "
    f"pathlib.Path({str(trigger)!r}).touch(); "
    "print(time.time(), time.time_ns() / 1e9)"
  )
  hook = around.hooked(FAULT_CLOCK=f"-86400:{trigger}")
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | hook,
    capture_output=True,
    text=True,
  )
  before, *after = map(float, done.stdout.split())
  assert abs(before - time.time()) < 100
  for then in after:
    assert abs(before - then - 86400) < 100


def test_the_hook_refuses_every_way_of_unpickling(tmp_path):
  assert around.refusals() == 0
  log = tmp_path / "log"
  code = "import collections, pickle; pickle.loads(b'junk')"
  for hook in ({}, around.hooked(FAULT_PICKLE=str(log))):
    assert not log.exists()
    subprocess.run(
      [sys.executable, "-c", code], env=os.environ | hook, capture_output=True
    )
  assert '"<string>", line 1' in log.read_text()


def run(**changes):
  fields = dict(
    state={"w": ("float32", (1,), b"1234"), "b": ("float32", (0,), b"")},
    data={"next_index": 3},
    window={"loss": 0.0},
    rows=[{"step": 1, "train/loss": 2.0}],
    result={"step": 1},
  )
  return compare.Run(**(fields | changes))


def test_any_difference_between_runs_is_named():
  assert compare.difference(run(), run()) == ""
  w = run().state | {"w": ("float32", (1,), b"1235")}
  assert "at w and 0 more" in compare.difference(run(state=w), run())
  gone = {"w": run().state["w"]}
  assert "at b and" in compare.difference(run(state=gone), run())
  assert "next_index" in compare.difference(run(data={"next_index": 4}), run())
  assert "0 rows, 1 exp" in compare.difference(run(rows=[]), run())
  assert "result is" in compare.difference(run(result={}), run())
  assert "window is" in compare.difference(run(window={}), run())


def test_rows_are_compared_without_what_a_clock_tells():
  rows = [{"step": 1, "time": 5.0, "train/mfu": 0.1, "train/loss": 2.0}]
  assert compare.without_clock(rows) == [{"step": 1, "train/loss": 2.0}]


def test_one_line_is_one_line():
  good = "linformer_jax: no space"
  assert lab_lib.Ended(1, "", good).line(1, 2) == good
  for status, err in [
    (0, good),
    (1, f"{good}\nmore"),
    (1, "Traceback (most recent call last):"),
    (1, ""),
  ]:
    with pytest.raises(lab_lib.Unexpected):
      lab_lib.Ended(status, "", err).line(1, 2)
  for status, err in [(0, "a warning"), (1, "")]:
    with pytest.raises(lab_lib.Unexpected):
      lab_lib.Ended(status, "", err).quiet()


def test_how_a_stopped_process_may_end():
  saved = "linformer_jax: SIGTERM: saved at update 7; the same command resumes"
  term, kill = stops.signal.SIGTERM, stops.signal.SIGKILL
  assert stops.check(lab_lib.Ended(143, "", saved), term, "running") == saved
  assert stops.check(lab_lib.Ended(-9, "", ""), kill, "writing") == ""
  assert stops.check(lab_lib.Ended(-15, "", ""), term, "start") == ""
  for ended, number, kind in [
    (lab_lib.Ended(-15, "", ""), term, "running"),  # not saved
    (lab_lib.Ended(143, "", "linformer_jax: ended"), term, "running"),
    (lab_lib.Ended(0, "", ""), kill, "ending"),  # came too late
    (lab_lib.Ended(-9, "", "damaged"), kill, "running"),
  ]:
    with pytest.raises(lab_lib.Unexpected):
      stops.check(ended, number, kind)


def test_half_of_the_kills_are_within_a_checkpoint():
  assert stops.KILLS.count("writing") * 2 >= len(stops.KILLS) == 10


class Lab:
  """In place of a real one."""

  def clean(self):
    pass


def test_trials_are_done_again_where_they_failed_or_were_cut(tmp_path):
  def fine(rng):
    return [lab_lib.record("same", str(rng.random())) for _ in range(2)]

  def broken(rng):
    raise lab_lib.Unexpected("exit 1: Traceback")

  path = tmp_path / "faults.jsonl"
  jobs = {"a": fine, "b": broken, "c": fine}
  text = ""
  for trial, function in jobs.items():
    lines = campaign.attempt(Lab(), lab_lib.Job("f", trial, function), 0)
    text += "".join(json.dumps(line) + "\n" for line in lines)
  path.write_text(text[:-20])  # cut by a kill
  found = campaign.records(path)
  assert [campaign.done(found["f", trial]) for trial in jobs] == [1, 0, 0]
  assert found["f", "b"][0]["outcome"] == "exit 1: Traceback"
  assert not campaign.done(None)
  again = campaign.attempt(Lab(), lab_lib.Job("f", "b", fine), 0)
  with path.open("a") as file:
    file.write("\n" + "".join(json.dumps(line) + "\n" for line in again))
  assert campaign.done(campaign.records(path)["f", "b"])
  assert campaign.records(tmp_path / "none.jsonl") == {}


def test_a_trial_draws_the_same_moments_again():
  def draw(rng):
    return [lab_lib.record("", str(rng.random()))]

  def drawn(trial, seed):
    job = lab_lib.Job("f", trial, draw)
    return campaign.attempt(Lab(), job, seed)[0]["detail"]

  assert drawn("a", 0) == drawn("a", 0)
  assert len({drawn("a", 0), drawn("b", 0), drawn("a", 1)}) == 3


def test_command_line():
  command = [sys.executable, "-m", "experiments.faults.campaign", "--list"]
  listed = subprocess.run(command, capture_output=True, text=True)
  assert listed.returncode == 0, listed.stderr
  assert listed.stdout.count("\n") == len(campaign.FAULTS)

"""launch/worker.sh, by launch.sh tpu, on two workers that are folders."""

import re
import shutil
import time

import pytest

from tests import fleet as fleets

ZONE = "--zone=us-west4-a"
CONFIG = "--config=configs/linformer.py:n=512,k=128"
WORKDIR = "--workdir=gs://bucket/runs/x"


@pytest.fixture
def fleet(tmp_path):
  with fleets.make(tmp_path) as fleet:
    yield fleet


def test_setup_copies_the_checkout_to_every_worker(fleet):
  for worker in fleet.workers:
    (worker / "linformer_jax" / "configs").mkdir(parents=True)
    (worker / "linformer_jax" / "configs" / "stale.py").touch()
    (worker / "linformer_jax" / "runs").mkdir()
  status, out, err = fleet.tpu("setup", "a", ZONE)
  assert status == 0, err
  for worker in fleet.workers:
    code = worker / "linformer_jax"
    assert (code / "launch" / "worker.sh").exists()
    assert (code / "configs" / "not committed.py").exists()
    assert (code / "runs").exists()
    for name in ("stale.py", "deleted.py", "ignored.py"):
      assert not (code / "configs" / name).exists()
    assert f"{worker.name}: ready: Python" in out
    assert fleet.calls(worker) == [
      "venv by python3",
      "pip -r requirements.txt",
      "pip -r requirements.txt jax[tpu]",
    ]


def test_setup_brings_a_newer_python(fleet):
  (fleet.root / "old").touch()
  status, out, err = fleet.tpu("setup", "a", ZONE)
  assert status == 0, err
  for worker in fleet.workers:
    assert f"{worker.name}: Python 3.11 or newer is needed, here is" in out
    assert fleet.calls(worker) == [
      "uv",
      "uv python install 3.12",
      "venv by python3.12",
      "pip -r requirements.txt",
      "pip -r requirements.txt jax[tpu]",
    ]


def test_setup_without_a_newer_python_is_one_line(fleet):
  (fleet.root / "old").touch()
  (fleet.root / "offline").touch()
  status, _, err = fleet.tpu("setup", "a", ZONE)
  assert status != 0
  said = [line for line in err.splitlines() if line.startswith("w-")]
  assert len(said) == len(fleet.workers)
  assert all("no Python 3.12 from uv" in line for line in said)


def test_train_needs_setup(fleet):
  shutil.copytree(fleet.checkout, fleet.workers[0] / "linformer_jax")
  shutil.copytree(fleet.checkout, fleet.workers[1] / "linformer_jax")
  status, _, err = fleet.tpu("train", "a", ZONE, CONFIG, WORKDIR)
  assert status != 0 and err.count("there is no environment") == 2


def alive(fleet):
  """How many workers report a run with its process id."""
  out = fleet.tpu("status", "a", ZONE)[1]
  return len(re.findall(r"w-\d: alive, process \d+; ", out))


def test_a_run_from_start_to_stop(fleet):
  assert fleet.tpu("setup", "a", ZONE)[0] == 0
  assert fleet.tpu("status", "a", ZONE)[1].count(": no run; nothing was") == 2
  assert fleet.tpu("stop", "a", ZONE)[1].count(": no run\n") == 2

  words = [
    CONFIG,
    WORKDIR,
    "--config.data.files=two words/*.txt,$HOME/`id`",
    "--config.a='single' \"double\" \\back",
    "--config.b=two\nlines",
    "--config.c=",
    "--config.d=x --dry-run --zone=y",
  ]
  status, out, err = fleet.tpu("train", "a", ZONE, *words)
  assert status == 0, err
  assert out.count(": started") == 2
  for worker in fleet.workers:
    log = worker / "linformer_jax" / "train.log"
    fleets.until(lambda log=log: "update 7" in log.read_text())
    given = (worker / "words").read_text().split("\0")[:-1]
    assert (
      given == ["-m", "linformer_jax.main", "train", "--distributed"] + words
    )
    cache = (worker / "cache").read_text()
    assert cache == "gs://bucket/runs/jax-cache\n"

  out = fleet.tpu("status", "a", ZONE)[1]
  assert len(re.findall(r"w-\d: alive, process \d+; update 7\n", out)) == 2
  status, _, err = fleet.tpu("train", "a", ZONE, *words)
  assert status != 0 and err.count("a run is alive (process ") == 2
  status, _, err = fleet.tpu("setup", "a", ZONE)
  assert status != 0 and err.count("\na run is alive here") == 2
  assert (fleet.workers[0] / "linformer_jax" / "launch" / "worker.sh").exists()

  status, out, err = fleet.tpu("stop", "a", ZONE)
  assert status == 0, err
  assert len(re.findall(r"w-\d: stopped; .* exit status 143\n", out)) == 2
  assert fleet.tpu("status", "a", ZONE)[1].count(": no run; ") == 2
  for worker in fleet.workers:  # gs://bucket/runs/x-logs/w-0.log
    copied = (fleet.root / "x-logs" / f"{worker.name}.log").read_text()
    assert "SIGTERM: saved at update 7\n" in copied
    assert copied.count("train --config") == 1

  # The same line again, as after a stop or on a new VM.
  assert fleet.tpu("train", "a", ZONE, *words)[0] == 0
  fleets.until(lambda: alive(fleet) == 2)
  assert fleet.tpu("stop", "a", ZONE)[0] == 0


def test_a_run_that_ends_by_itself_can_be_followed_by_another(fleet):
  assert fleet.tpu("setup", "a", ZONE)[0] == 0
  (fleet.root / "end").touch()
  ended = re.compile(r"w-\d: no run; .* exit status 0\n")
  for _ in range(2):
    status, _, err = fleet.tpu("train", "a", ZONE, CONFIG, WORKDIR)
    assert status == 0, err
    # A worker that has not begun yet is not alive, either.
    fleets.until(
      lambda: len(ended.findall(fleet.tpu("status", "a", ZONE)[1])) == 2
    )


def test_ssh_may_end_before_the_run_has_a_session_of_its_own(fleet):
  """Its terminal's SIGHUP must not end a run that is just being started."""
  slow = fleet.root / "bin" / "setsid"
  slow.write_text(
    "#!/bin/sh\n"
    '[ "$1 $2 $3" != "bash launch/worker.sh run" ] || sleep 0.5\n'
    f'exec {shutil.which("setsid")} "$@"\n'
  )
  slow.chmod(0o755)
  assert fleet.tpu("setup", "a", ZONE)[0] == 0
  assert fleet.tpu("train", "a", ZONE, CONFIG, WORKDIR)[0] == 0
  time.sleep(1)
  assert alive(fleet) == 2


def test_one_host_is_a_pod_of_one(fleet):
  shutil.rmtree(fleet.workers.pop())
  assert fleet.tpu("setup", "a", ZONE)[0] == 0
  assert fleet.tpu("train", "a", ZONE, CONFIG, WORKDIR)[0] == 0
  fleets.until(lambda: alive(fleet) == 1)
  assert fleet.tpu("stop", "a", ZONE)[1].count(": stopped; ") == 1

"""The commands: what a run says and leaves, again and after errors."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from linformer_jax import main
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "--config=configs/smoke.py"


RUN = "--workdir={tmp}/run"
TINY = [
  SMOKE,
  *runs.QUICK_FLAGS,
  "--config.data.source=synthetic",
  "--config.model.vocab_size=300",
  "--config.model.max_length=16",
  "--config.attention.projected_length=8",
  "--config.model.embed_dim=16",
  "--config.model.position_dims=8",
  "--config.model.num_heads=2",
  "--config.model.mlp_dim=32",
  "--config.train.batch_size=4",
  "--config.train.num_steps=4",
  "--config.optimizer.warmup_steps=1",
  "--config.run.log_every_steps=2",
  "--config.run.eval_every_steps=2",
  "--config.run.eval_batch_size=64",
  "--config.run.checkpoint_every_steps=2",
]


def test_run_again_says_what_is_done_and_never_mixes_configs(command, tmp_path):
  status, out, err = command(*TINY, RUN)
  assert status == 0, err
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  summary = out[out.index("Done:") :]
  for part in (
    f"{result['perplexity']:.2f}",
    f"{result['unigram_perplexity']:.2f}",
    "tokens/s",
    "MFU",
    str(tmp_path / "run"),
    "./launch.sh tensorboard",
    "./launch.sh test",
  ):
    assert part in summary
  assert (tmp_path / "run" / "curve.png").stat().st_size > 5000
  lines = (tmp_path / "run" / "metrics.jsonl").read_text()

  status, out, err = command(*TINY, RUN)  # the same again: nothing is done
  assert status == 0 and "complete" in out and f"{result['step']} up" in out
  assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines

  other = "--config.optimizer.learning_rate=0.1"
  status, out, err = command(*TINY, RUN, other)
  assert status == 2 and "optimizer.learning_rate" in err and "0.1" in err
  assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines

  status, out, err = command(*TINY, RUN, other, "--new")
  assert status == 0, err
  assert (tmp_path / "run-2" / "result.json").exists()
  assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines

  status, out, err = command("evaluate", RUN)
  assert status == 0 and f"{result['perplexity']:.2f}" in out, err


def test_two_processes_in_one_folder(command, tmp_path):
  from linformer_jax.run import workdir

  (tmp_path / "run").mkdir()
  with workdir.lock(tmp_path / "run"):
    status, _, err = command(*TINY, RUN)
  assert status == 2 and "another process" in err


def test_a_folder_that_cannot_be_written(command, tmp_path):
  (tmp_path / "a_file").touch()
  status, _, err = command(*TINY, "--workdir={tmp}/a_file/run")
  assert status == 2 and "Traceback" not in err
  expected = (
    f"linformer_jax: --workdir={tmp_path}/a_file/run cannot be written: "
  )
  assert err.splitlines()[-1].startswith(expected)


def test_a_disk_that_is_full_while_training(command, tmp_path, monkeypatch):
  from linformer_jax.run import metrics

  def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, "scalars", no_space)
    status, _, err = command(*TINY, RUN)
  assert status == 1 and "Traceback" not in err
  line = err.splitlines()[-1]
  assert line.startswith(f"linformer_jax: --workdir={tmp_path}/run: ")
  assert "No space left" in line and "the same command resumes" in line
  status, out, err = command(*TINY, RUN)
  assert status == 0 and "Done: 4 updates" in out, err


def test_late_errors_of_other_files_are_silent(monkeypatch):
  shown = []
  monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
  other = types.SimpleNamespace(exc_value=ValueError("x"))
  main._unraisable(other)
  error = RuntimeError("Event loop is closed")
  main._unraisable(types.SimpleNamespace(exc_value=error))
  assert shown == [other]


@pytest.mark.slow
def test_a_damaged_summary_is_made_anew(command, tmp_path):
  assert command(*TINY, RUN)[0] == 0
  path = tmp_path / "run" / "result.json"
  whole = json.loads(path.read_text())
  for text in (b"\xff", b"[1]", b'{"step": 4}'):
    path.write_bytes(text)
    status, out, err = command(*TINY, RUN)
    assert status == 0, err
    assert f"{path} cannot be read" in out and "Done: 4 updates" in out
    again = json.loads(path.read_text())
    assert again["perplexity"] == whole["perplexity"]


def test_ctrl_c_while_modules_are_imported_says_nothing():
  process = subprocess.Popen(
    [sys.executable, "-m", "linformer_jax.main"],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )
  time.sleep(0.5)  # flax alone takes longer
  process.send_signal(signal.SIGINT)
  _, err = process.communicate()
  assert (process.returncode, err) == (-signal.SIGINT, "")


def test_help_is_worth_reading(command):
  status, out, _ = command("--help")
  assert status == 0
  for word in (
    "--config",
    "--workdir",
    "--[no]new",
    "evaluate",
    "configs/base.py",
  ):
    assert word in out

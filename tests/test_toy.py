"""An attention, a task and a data set of one file outside the package."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from linformer_jax import train
from linformer_jax.run import metrics
from tests import toy

ROOT = pathlib.Path(__file__).parent.parent


def main(workdir, *words):
  return subprocess.run(
    [sys.executable, "-m", "linformer_jax.main", *words]
    + [f"--workdir={workdir}"],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_an_attention_and_a_task_of_ones_own_train_on_eight_devices(tmp_path):
  flags = ["--config=tests/toy.py", "--config.mesh.data=2"]
  flags += ["--config.mesh.fsdp=2", "--config.mesh.sequence=2"]
  flags += ["--config.attention.mean.scale=2"]
  done = main(tmp_path / "run", "train", *flags)
  assert done.returncode == 0, done.stderr
  assert "on 8 cpu device(s)" in done.stdout
  assert "1 of mean (scale = 2.0)" in done.stdout
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["targets"] == 40  # of three batches of 16
  assert 0.5 <= result["guess"] < 1
  share = result["hits"] / result["guess"]
  assert f"{result['hits']:.1%}, {share:.1%} of the guess" in done.stdout
  rows = metrics.read_json_lines(tmp_path / "run")
  assert [row["step"] for row in rows if "train/hits" in row] == [2, 4, 6]
  assert rows[-1]["eval/loss"] == pytest.approx(result["loss"])
  config = toy.get_config()
  config.attention.mean.scale = 2.0
  one = train.build(config)
  found = train.train_and_evaluate(one, tmp_path / "one")
  assert found["loss"] == pytest.approx(result["loss"], rel=1e-3)


def test_importing_the_library_changes_nothing_of_the_process():
  program = (
    "import os, signal, sys\n"
    "before = signal.getsignal(signal.SIGINT), dict(os.environ)\n"
    "sys.argv = ['-m']  # as while a package is imported to be run\n"
    "import linformer_jax\n"
    "from linformer_jax import loading, models\n"
    "assert before == (signal.getsignal(signal.SIGINT), dict(os.environ))\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr

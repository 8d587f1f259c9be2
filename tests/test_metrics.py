"""Metrics: exact means, the files of a run, and a real TensorBoard on them."""

import json
import math
import re
import subprocess
import sys
import time
import urllib.request

import jax
import numpy as np
import pytest

from configs import base
from linformer_jax import flops, step
from linformer_jax.run import metrics, report, result
from linformer_jax.tasks import masked_lm

TASK = step.task_of(base.get_config())


def test_a_resumed_run_forgets_what_it_repeats(tmp_path):
  path = tmp_path / metrics.JSON_LINES
  rows = [{"step": 1}, {"step": 2, "eval/loss": 3.0}, {"step": 3}]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  path.write_text(lines + '{"step": 4, "tra')  # cut short by a kill
  assert metrics.read_json_lines(tmp_path) == rows
  metrics.forget_after(tmp_path, 2, evaluated=True)
  assert metrics.read_json_lines(tmp_path) == rows[:2]
  assert path.read_text().endswith("\n")
  metrics.forget_after(tmp_path, 2, evaluated=False)
  assert metrics.read_json_lines(tmp_path) == rows[:1]


def test_damaged_lines_are_told_and_left_out(tmp_path, capsys):
  path = tmp_path / metrics.JSON_LINES
  lines = [b'{"step": 1}', b'{"st\xffep": 2}', b"[3]", b'{"stop": 4}']
  path.write_bytes(b"\n".join([*lines, b'{"step": 5}', b'{"step": 6, "cut']))
  rows = [{"step": 1}, {"step": 5}]
  assert metrics.read_json_lines(tmp_path) == rows
  metrics.forget_after(tmp_path, 5, evaluated=True)
  assert capsys.readouterr().err == f"{path}: 3 damaged lines are skipped\n"
  metrics.forget_after(tmp_path, 5, evaluated=True)
  assert capsys.readouterr().err == ""
  assert metrics.read_json_lines(tmp_path) == rows


def test_device_peak_is_a_plausible_rate():
  peak, source = metrics.device_peak()
  assert "measured" in source and 1e9 < peak < 1e14


def test_every_published_peak_is_in_flops_per_second():
  assert all(1e13 < peak < 1e16 for peak in flops.PEAK_FLOPS.values())


def test_throughput_counts_busy_seconds_alone():
  state = {"busy_seconds": 5.0, "last_read": 5.0, "wall": 9.0}
  throughput = report.Throughput(100, 10**6, state)
  throughput.start()
  time.sleep(0.05)
  throughput.pause()
  time.sleep(0.2)  # evaluation
  values = throughput.read(2)
  assert 0.025 <= values["train/step_seconds"] < 0.1
  assert math.isclose(
    values["train/tokens_per_second"] * values["train/step_seconds"], 100
  )
  throughput.pause()
  assert 5.05 <= throughput.busy_seconds < 5.2
  assert 9.25 <= throughput.wall_seconds < 10


@pytest.mark.parametrize(
  "seconds, text", [(5, "0:05"), (61.9, "1:01"), (3661, "1:01:01")]
)
def test_clock(seconds, text):
  assert report.clock(seconds) == text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A folder written as a run writes it."""
  folder = tmp_path_factory.mktemp("runs") / "run"
  folder.mkdir()
  config = base.get_config()
  writer = metrics.Writer(folder)
  writer.config(config, params={"kernel": np.zeros((3, 4))})
  throughput = report.Throughput(64, 10**6)
  progress = report.Progress(config, TASK, 100.0)
  window = report.Window(writer, progress, throughput, TASK, every=2)
  for at in range(1, 5):
    throughput.start()
    values = {"loss": 8.0 / at, "correct": 1.0, "weight": 2.0}
    values |= {"gradient_norm": 1.0, "parameter_norm": 1.0}
    values |= {"learning_rate": 0.1}
    window.add(at, jax.device_put(values))
  window.close()
  writer.scalars(
    4, {"eval/loss": 1.0, "eval/perplexity": 2.7, "eval/accuracy": 0.5}
  )
  return folder


def test_an_event_file_that_cannot_be_written(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.scalars(1, {"train/loss": 1.0})
  (path,) = tmp_path.glob("events.*")
  path.rename(tmp_path / "kept")
  path.symlink_to("/dev/full")
  with pytest.raises(OSError, match="No space left"):
    writer.scalars(2, {"train/loss": 1.0})
  assert len(metrics.read_json_lines(tmp_path)) == 1


TAGS = {
  "train/loss",
  "train/perplexity",
  "train/accuracy",
  "train/learning_rate",
  "train/gradient_norm",
  "train/parameter_norm",
  "train/tokens_per_second",
  "train/mfu",
  "train/step_seconds",
  "train/memory_bytes",
  "eval/loss",
  "eval/perplexity",
  "eval/accuracy",
}


def test_json_lines_hold_every_metric(run):
  rows = metrics.read_json_lines(run)
  assert [row["step"] for row in rows] == [2, 4, 4]
  assert set().union(*rows) == TAGS | {"step", "time"}
  assert math.isclose(rows[0]["train/loss"], (8 + 4) / 4)


def test_curve_is_drawn(run):
  path = result.draw_curve(run, masked_lm.MaskedLM, 100.0)
  assert path.name == "curve.png"
  assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def tensorboard(run):
  """Reads JSON from a real TensorBoard that serves the run."""
  server = subprocess.Popen(
    [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.parent)]
    + ["--port", "0", "--load_fast=false"],
    stderr=subprocess.PIPE,
    text=True,
  )
  address = None
  for line in server.stderr:
    found = re.search(r"http://\S+:\d+/", line)
    if found:
      address = found[0]
      break
  assert address, "TensorBoard did not start"

  def read(path):
    with urllib.request.urlopen(address + "data/" + path, timeout=30) as page:
      return json.load(page)

  deadline = time.time() + 60
  while not read("plugin/scalars/tags") and time.time() < deadline:
    time.sleep(0.5)
  yield read
  server.kill()
  server.wait()


def test_tensorboard_serves_the_scalars(tensorboard):
  assert set(tensorboard("plugin/scalars/tags")["run"]) >= TAGS
  points = tensorboard("plugin/scalars/scalars?run=run&tag=train%2Floss")
  assert [(step, value) for _, step, value in points] == [
    (2, pytest.approx(3.0)),
    (4, pytest.approx((8 / 3 + 2) / 4)),
  ]


def test_tensorboard_serves_config_and_hyper_parameters(tensorboard):
  assert "config" in tensorboard("plugin/text/tags")["run"]
  text = tensorboard("plugin/text/text?run=run&tag=config")[0]["text"]
  assert "attention.projected_length = 128" in text
  assert "optimizer.learning_rate = 0.0006" in text
  text = tensorboard("plugin/text/text?run=run&tag=parameters")[0]["text"]
  assert "kernel" in text and "(3, 4)" in text and "12" in text
  tags = tensorboard("plugins_listing")
  assert tags["hparams"]["enabled"]

"""TensorBoard after a kill: each step once, whichever program reads it."""

import json
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.proto import event_pb2

from configs import base
from linformer_jax.run import events, metrics

LAST = 9


def _write(writer, steps):
  for step in steps:
    writer.scalars(step, {"train/loss": 10.0 - step})
    if step % 2 == 0:
      writer.scalars(step, {"eval/loss": 20.0 - step})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run killed after update 6 and again after 8; checkpoints at 4 and 0."""
  folder = tmp_path_factory.mktemp("runs") / "run"
  folder.mkdir()
  for first, stop in ((0, 3), (0, 7), (4, 9), (4, LAST + 1)):
    metrics.forget_after(folder, first, evaluated=True)
    writer = metrics.Writer(folder)
    writer.resume(first)
    if first == 0:
      writer.config(base.get_config())
    _write(writer, range(first + 1, stop))  # never closed
  return folder


def _events(folder):
  for path in sorted(folder.glob("events.*")):
    yield from (event for event, _ in events.read(path))


def _points(folder, tag):
  reader = event_accumulator.EventAccumulator(
    str(folder), {event_accumulator.TENSORS: 0}
  )
  reader.Reload()
  return [event.step for event in reader.Tensors(tag)]


@pytest.mark.parametrize(
  "tag, steps",
  [
    ("train/loss", list(range(1, LAST + 1))),
    ("eval/loss", [2, 4, 6, 8]),
    ("config", [0]),
    ("_hparams_/session_start_info", [0]),
  ],
)
def test_each_step_is_there_once(run, tag, steps):
  assert _points(run, tag) == steps
  raw = [
    event.step
    for event in _events(run)
    if tag in (value.tag for value in event.summary.value)
  ]
  assert raw == steps


def test_a_start_is_logged_at_the_step_of_each_resume(run):
  start = event_pb2.SessionLog.START
  starts = [
    event.step for event in _events(run) if event.session_log.status == start
  ]
  assert starts == [0, 0, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["true", "false"])
def test_tensorboard_itself_shows_each_step_once(run, fast):
  server = subprocess.Popen(
    [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.parent)]
    + ["--port", "0", f"--load_fast={fast}"],
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    lines = (re.search(r"http://\S+:\d+/", line) for line in server.stderr)
    address = next(filter(None, lines))[0]
    path = "data/plugin/scalars/scalars?run=run&tag=train%2Floss"
    found, deadline = [], time.time() + 60
    while len(found) < LAST and time.time() < deadline:
      time.sleep(0.5)
      try:
        with urllib.request.urlopen(address + path, timeout=30) as page:
          found = json.load(page)
      except urllib.error.HTTPError:  # not loaded yet
        continue
    assert [(step, value) for _, step, value in found] == [
      (step, pytest.approx(10.0 - step)) for step in range(1, LAST + 1)
    ]
  finally:
    server.kill()
    server.wait()

"""Pretraining curves: the points, the sweep that runs them, and its results."""

import json
import math
import pathlib
import shlex
import signal
import sys

import jax
import numpy as np
import pytest

from experiments import pages
from experiments.perplexity import curves, figures, panels, paper, render, sweep
from linformer_jax import model, optimizer, step
from linformer_jax.data import pipeline

FIRST = ("GLOB", "runs/perplexity")  # text and folder of runs


def every_run():
  return {
    run.name: run
    for panel in panels.PANELS.values()
    for run in sweep.runs(panel, *FIRST)
  }


@pytest.fixture(scope="module")
def all_runs():
  return every_run()


def test_every_point_is_valid_and_every_name_one_model(all_runs):
  for panel in panels.PANELS.values():
    for run in sweep.runs(panel, *FIRST):
      assert run.words == all_runs[run.name].words  # shared between panels
  seen = [json.dumps(curves.settings(r.config)) for r in all_runs.values()]
  assert len(set(seen)) == len(seen)
  for run in all_runs.values():
    config = run.config
    step.model_config(config.model)
    pipeline.DataConfig(**config.data.to_dict())
    optimizer.create(config.optimizer, config.train.num_steps)
    assert config.data.seed == config.seed == run.seed
    assert config.train.num_steps % config.run.log_every_steps == 0


def test_points_differ_by_what_their_panel_compares_alone(all_runs):
  """The same text, tokens an update, schedule and seeds."""
  free = ("model.projection", "model.projected", "model.sharing", "data.seed")
  free += ("model.attention", "model.max_length", "data.sequence_length")
  free += ("train.batch_size", "optimizer.projection_rate", "seed")
  shared = {
    json.dumps(
      {
        name: value
        for name, value in curves.settings(run.config).items()
        if not name.startswith(free)
      }
    )
    for run in all_runs.values()
  }
  assert len(shared) == 1
  tokens = {
    run.config.train.batch_size * run.config.model.max_length
    for run in all_runs.values()
  }
  assert len(tokens) == 1
  assert len(panels.PANELS["a"].seeds) >= 2
  lengths = [run.config.model.max_length for run in all_runs.values()]
  assert max(lengths) >= 4 * min(lengths)


def num_parameters(config):
  cfg = step.model_config(config.model)
  shapes = jax.eval_shape(
    model.MaskedLM(cfg).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, cfg.max_length), "int32"),
  )
  return model.num_parameters(shapes["params"])


def expected_projections(m):
  """Numbers in E and F of all layers, by the paper's ways to share them."""
  head_dim, ks = m.embed_dim // m.num_heads, m.projected_lengths
  if m.attention == "softmax" or m.projection in (
    "random",
    "mean_pool",
    "max_pool",
  ):
    return 0
  if m.projection == "convolution":
    return sum(2 * m.max_length // k * head_dim**2 for k in ks)
  matrices = {"none": 2 * m.num_heads, "headwise": 2, "key_value": 1}
  if m.sharing == "layerwise":
    return ks[0] * m.max_length
  return sum(matrices[m.sharing] * k * m.max_length for k in ks)


def test_parameter_counts(all_runs):
  names = {
    f"{point.name}-s0" for name in "ce" for point in panels.PANELS[name].points
  } | {f"n{panels.N}-k{panels.N}-none-s0"}
  for name in sorted(names):
    m = step.model_config(all_runs[name].config.model)
    width, hidden, vocab = m.embed_dim, m.mlp_dim, m.vocab_size
    norm = 2 * width
    layer = 4 * (width**2 + width) + 2 * norm
    layer += 2 * width * hidden + hidden + width
    rest = (vocab + m.max_length) * width + norm  # embeddings
    rest += width**2 + width + norm + vocab  # head
    expected = m.num_layers * layer + rest + expected_projections(m)
    assert num_parameters(all_runs[name].config) == expected, name


@pytest.mark.parametrize(
  ("name", "mean", "std"),
  [
    ("start-identity-frozen", "identity", 0.0),
    ("start-noisy", "identity", 0.02),
    ("start-random-frozen", 0, 0.02),
    ("start-wide", 0, panels.N**-0.5),
    ("k128", 0, 0.02),
  ],
)
def test_starts_of_panel_p(all_runs, name, mean, std):
  config = all_runs[f"n{panels.N}-{name}-s0"].config
  m = step.model_config(config.model)
  assert m.projected_lengths == (m.max_length,) * m.num_layers
  shape = (m.max_length, m.max_length)
  start = np.asarray(m.weights_init()(jax.random.key(0), shape))
  rest = start - (np.eye(m.max_length) if mean == "identity" else mean)
  # A sample's standard deviation has the deviation std / sqrt(2 size).
  margin = 5 * std / math.sqrt(2 * rest.size) + 1e-4 * std  # 4 digits are given
  assert abs(rest.std() - std) <= margin
  assert config.optimizer.projection_rate == (0 if "frozen" in name else 1)


@pytest.mark.parametrize(
  ("perplexities", "left"),
  [
    ([90, 60, 49, 20], 300),  # half of 100 is 50
    ([90, 50, 49.9, 51], 300),  # half itself is not under it; the first counts
    ([49, 90, 90, 90], 100),
    ([90, 80, 70, 60], None),
    ([], None),
  ],
)
def test_plateau(perplexities, left):
  rows = [
    [100 * (i + 1), 0, 0.0, 0, value] for i, value in enumerate(perplexities)
  ]
  assert curves.plateau(rows, 100.0) == left


def made_up(run, perplexities=(300.0, 90.0, 80.0), seconds=0.5):
  """What a run of three evaluations leaves: result.json and metrics.jsonl."""
  config, total = run.config, run.config.train.num_steps
  every, rows = config.run.log_every_steps, []
  for i, perplexity in enumerate(perplexities, start=1):
    at = total * i // len(perplexities)
    evaluation = {"eval/loss": 1.0, "eval/perplexity": perplexity}
    rows.append({"step": at} | evaluation)
  for at in range(every, total + 1, every):
    rows.append({"step": at, "train/step_seconds": seconds})
  rows.sort(key=lambda row: row["step"])  # an evaluation before its updates
  result = {
    "step": total,
    "perplexity": perplexities[-1],
    "unigram_perplexity": 400.0,
    "targets": 1000.0,
    "parameters": 5,
    "tokens": 7,
    "train_blocks": 3,
    "busy_seconds": seconds * total,
    "wall_seconds": 2 * seconds * total,
  }
  names = ("device", "host", "python", "jax", "flax", "commit")
  return result | dict.fromkeys(names, "x"), rows


def leave(run, **changes):
  result, rows = made_up(run, **changes)
  folder = pathlib.Path(run.workdir)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "result.json").write_text(json.dumps(result))
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "metrics.jsonl").write_text(text)


def test_evaluations_count_updates_alone(all_runs):
  config = all_runs["n128-k32-s0"].config
  rows = [
    {"step": 10, "train/step_seconds": 2.0},
    {"step": 20, "eval/loss": 1.0, "eval/perplexity": 9.0, "eval/seconds": 99},
    {"step": 20, "train/step_seconds": 3.0},
    {"step": 25, "train/step_seconds": 1.0},
    {"step": 25, "eval/loss": 1.0, "eval/perplexity": 8.0},
  ]
  tokens, needed = 16 * 128, curves.update_flops(config)
  assert curves.evaluations(rows, config) == [
    [20, 20 * tokens, 50.0, 20 * needed, 9.0],
    [25, 25 * tokens, 55.0, 25 * needed, 8.0],
  ]
  m = config.model
  # Three times the forward products: the layers', and the head's at 15%.
  products = m.embed_dim * (2 * m.embed_dim + 2 * m.mlp_dim)  # Q, out, MLP
  keys = 2 * 32 * (128 + m.embed_dim) * m.embed_dim  # E, F before W_K, W_V
  layer = 2 * (128 * products + keys + 2 * 128 * 32 * m.embed_dim)
  head = 19 * 2 * m.embed_dim * (m.embed_dim + m.vocab_size)
  assert needed == 3 * 16 * (m.num_layers * layer + head)


class Launcher:
  """In place of the training command: statuses in turn, 0 leaving a run."""

  def __init__(self, wanted, *statuses):
    self.by_words = {tuple(run.words): run for run in wanted}
    self.statuses = list(statuses)
    self.launched = []

  def __call__(self, words, seconds):
    run = self.by_words[tuple(words)]
    self.launched.append(run.name)
    status = self.statuses.pop(0) if self.statuses else 0
    if status == 0:
      leave(run)
    return status


@pytest.fixture
def shared_and_own(tmp_path):
  """The runs of panels c and e: softmax and k = 32 stand in both."""
  return [
    sweep.runs(panels.PANELS[name], "GLOB", str(tmp_path / "runs"))
    for name in "ce"
  ]


def test_a_sweep_skips_what_is_done_and_goes_on(tmp_path, shared_and_own):
  wanted, others = shared_and_own
  names = [run.name for run in wanted]
  path = tmp_path / "results" / "c.jsonl"
  stopped = Launcher(wanted, 0, 143)
  status = sweep.go_through(wanted, path, 1e6, stopped)
  assert status == 143 and stopped.launched == names[:2]
  assert list(curves.records(path)) == names[:1]
  again = Launcher(wanted)
  assert sweep.go_through(wanted, path, 1e6, again) == 0
  assert again.launched == names[1:]
  assert list(curves.records(path)) == names
  nothing = Launcher(wanted)
  assert sweep.go_through(wanted, path, 1e6, nothing) == 0
  assert not nothing.launched
  # Another panel takes over the runs that it shares with this one.
  other = Launcher(others)
  assert sweep.go_through(others, path.with_name("e.jsonl"), 1e6, other) == 0
  assert set(other.launched) == {run.name for run in others} - set(names)
  assert len(curves.records(path.with_name("e.jsonl"))) == len(others)


def test_a_sweep_that_meets_errors(tmp_path, shared_and_own, capsys):
  wanted, _ = shared_and_own
  path = tmp_path / "results" / "c.jsonl"
  broken = Launcher(wanted, 0, 1)  # a loss that is not finite, say
  assert sweep.go_through(wanted, path, 1e6, broken) == 1
  assert wanted[1].name in capsys.readouterr().err
  assert len(broken.launched) == len(wanted) == len(curves.records(path)) + 1
  wrong = Launcher(wanted, 2)
  assert sweep.go_through(wanted, path, 1e6, wrong) == 2
  assert wrong.launched == [wanted[1].name]
  assert sweep.go_through(wanted, path, 0.0, wrong) == sweep.OVER
  assert len(wrong.launched) == 1


def test_a_record_is_of_one_recipe(tmp_path, shared_and_own):
  run = shared_and_own[0][1]
  leave(run)
  record = json.loads(json.dumps(run.record()))
  assert curves.is_of(record, run.config)
  assert record["plateau_updates"] == record["evaluations"][1][0]
  assert record["evaluations"][-1][2] == record["busy_seconds"]
  younger = run.config.copy_and_resolve_references().unlock()
  younger.model.some_new_field = 1
  younger.run.log_every_steps = 7
  assert curves.is_of(record, younger)
  younger.optimizer.learning_rate *= 2
  assert not curves.is_of(record, younger)
  path = tmp_path / "results" / "c.jsonl"
  record["config"]["train.num_steps"] = 1
  curves.save(path, {run.name: record})
  assert sweep.known([run], path.parent) == {}


@pytest.fixture
def in_place_of_python(tmp_path, monkeypatch):
  """A shell script that the sweep takes for the Python that trains."""

  def script(text):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))

  return script


def test_the_budget_lets_a_run_save(tmp_path, in_place_of_python):
  saved = tmp_path / "saved"
  in_place_of_python(
    f"trap 'echo yes > {saved}; exit 143' TERM\nwhile :; do sleep 0.02; done"
  )
  before = signal.getsignal(signal.SIGTERM)
  assert sweep.launch([], 0.3) == 143
  assert saved.exists() and signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_passed_on(in_place_of_python):
  in_place_of_python(
    "trap 'exit 130' INT\nkill -INT $PPID\nwhile :; do sleep 0.02; done"
  )
  assert sweep.launch([], 30.0) == 130


def test_statuses_of_a_run(tmp_path, in_place_of_python):
  words = tmp_path / "words"
  in_place_of_python(f'echo "$@" > {words}; exit 2')
  assert sweep.launch(["--config=x"]) == 2
  assert words.read_text() == "-m linformer_jax.main train --config=x\n"
  in_place_of_python("kill -9 $$")
  assert sweep.launch([]) == 128 + 9


def test_the_list_tells_launch_lines(capsys):
  assert sweep.main(["--panel=b", "--list", "--text=x/*.txt"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(panels.PANELS["b"].points)
  for line in lines:
    assert "./launch.sh train --config=configs/pretrain_small.py:n=256" in line
    assert "--config.data.files=x/*.txt" in shlex.split(line)


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (["--panel=z", "--text=x"], "invalid choice"),
    (["--panel=a"], "--text=GLOB is needed"),
    (["--panel=a", "--text=x", "--nothing"], "--nothing"),
    (["--panel=a", "--text=x", "--config.seed=1"], "--results"),
  ],
)
def test_wrong_flags(words, told, capsys):
  with pytest.raises(SystemExit) as error:
    sweep.main(words)
  assert error.value.code == 2
  assert told in capsys.readouterr().err


def test_a_field_that_there_is_not_is_one_line(tmp_path, capsys):
  words = ["--panel=a", "--text=x", f"--results={tmp_path}"]
  assert sweep.main([*words, "--config.model.depth=1"]) == 2
  told = capsys.readouterr().err
  assert "depth" in told and told.count("\n") == 1


def test_gaps_of_the_paper():
  """As they follow from the ends of its curves."""
  gaps = {
    ("a", "n128-k16"): 0.095,
    ("a", "n128-k32"): 0.052,
    ("a", "n128-k64"): 0.025,
    ("b", "n256-k32"): 0.088,
    ("b", "n256-k64"): 0.045,
    # At 247,000 updates; softmax fell by 0.12 in the last 50,000.
    ("c", "n128-k32-layerwise"): 3.42 / (3.26 + 0.12 * 3 / 50) - 1,
    ("d", "n1024-k32"): 4.43 / 3.98 - 1,
  }
  for name, panel in panels.PANELS.items():
    for point in panel.points:
      ratio = paper.final_ratio(name, point)
      if (name, point.name) in gaps:
        # Those of a and b are rounded to a tenth of a percent.
        assert abs(ratio - 1 - gaps[name, point.name]) < 5.1e-4
        assert f"n = {'1,024' if name == 'b' else ''}" in paper.label(
          name, point
        )
      if name in "ep" or point is panel.points[0]:
        assert ratio is None


def test_the_papers_scale_is_ready_to_launch():
  lines = panels.full_scale()
  assert len(lines) == 11
  for name, words in lines.items():
    for data in panels.FULL_DATA.values():
      words = [*words, *panels.FULL_COMMON, *data]
      config = sweep.config_of(words)
      step.model_config(config.model)
      pipeline.DataConfig(**config.data.to_dict())
      length = config.model.max_length
      assert name.startswith(f"n{length}-")
      assert config.train.batch_size * length == panels.FULL_TOKENS
      assert config.train.num_steps == paper.UPDATES
    assert words[0] in render.PAGE.read_text()


def test_the_page_of_made_up_results(tmp_path):
  for name, panel in panels.PANELS.items():
    found = {}
    for run in sweep.runs(panel, "GLOB", str(tmp_path / "runs")):
      first = run.point is panel.points[0]
      end = (20.0 if first else 21.0) + run.seed
      leave(run, perplexities=(300.0, 90.0, end))
      found[run.name] = run.record()
    if name == "b":  # one is not done
      del found["n256-k32-s0"]
    curves.save(tmp_path / "results" / f"{name}.jsonl", found)
  parts = render.sections(tmp_path / "results")
  a, b, e, p = (parts[render.MARK.format(name)] for name in "abep")
  # 21/20 and 22/21, the mean of the two, beside the paper's.
  assert "| +4.9% (+4.8% to +5.0%) | +9.5% |" in a
  assert "**20.50 (20.00 to 21.00)**" in a
  assert "| k = 32 |  |  | – |" in b and "1 runs are not done yet" in b
  assert "the paper's" not in e.splitlines()[0]
  assert "| 4,000 |" in p and "panel_p.png" in p
  for name in "bp":
    image = tmp_path / f"{name}.png"
    figures.draw(render.Curves(name, tmp_path / "results"), image)
    assert image.read_bytes().startswith(b"\x89PNG")


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.sections()
  assert all(mark in page for mark in parts)
  assert pages.renew(page, parts) == page
  for name in panels.PANELS:
    there = (curves.RESULTS / f"{name}.jsonl").exists()
    assert there == figures.path(name).exists()
    assert there == (parts[render.MARK.format(name)] != render.PENDING)


def test_committed_curves_are_of_todays_recipe_and_of_one_text(all_runs):
  by_length = {}
  for path in sorted(curves.RESULTS.glob("*.jsonl")):
    panel = panels.PANELS[path.stem]
    for name, record in curves.records(path).items():
      run = all_runs[name]
      assert run.point in panel.points
      assert curves.is_of(record, run.config), name
      assert record["evaluations"][-1][-1] == record["perplexity"]
      assert record["evaluations"][-1][2] == pytest.approx(
        record["busy_seconds"], abs=0.02 + 1e-3 * record["busy_seconds"]
      )
      facts = record["unigram_perplexity"], record["targets"]
      length = run.config.model.max_length
      assert by_length.setdefault(length, facts) == facts, name


@pytest.mark.slow
def test_a_real_sweep_is_stopped_and_goes_on(tmp_path, monkeypatch):
  words = "the cat sat on a mat and saw some dogs run by it".split()
  rng = np.random.default_rng(0)
  with (tmp_path / "text.jsonl").open("w") as file:
    for _ in range(300):
      text = " ".join(rng.choice(words, 200))
      file.write(json.dumps({"text": text}) + "\n")
  panel = panels.Panel("two", panels.PANELS["c"].points[:2])
  monkeypatch.setitem(panels.PANELS, "a", panel)
  monkeypatch.setattr(sweep, "_LEAST_SECONDS", 0)
  tiny = "model.embed_dim=32 model.num_layers=1 model.num_heads=2 "
  tiny += "model.mlp_dim=64 train.batch_size=4 train.num_steps=3000 "
  tiny += "model.vocab_size=300 optimizer.warmup_steps=10 "
  tiny += "run.eval_every_steps=1000"
  arguments = [
    "--panel=a",
    f"--text={tmp_path}/*.jsonl",
    f"--workdir={tmp_path}/runs",
    f"--results={tmp_path}/results",
    *(f"--config.{word}" for word in tiny.split()),
  ]
  assert sweep.main([*arguments, "--budget=12"]) == sweep.OVER
  assert sweep.main(arguments) == 0
  found = curves.records(tmp_path / "results" / "a.jsonl")
  assert len(found) == 2
  for record in found.values():
    rows = record["evaluations"]
    assert [row[0] for row in rows] == [1000, 2000, 3000]
    # The seconds of all updates, interruption or not.
    assert rows[-1][2] == pytest.approx(record["busy_seconds"], rel=0.02)
    assert rows[-1][4] == record["perplexity"]

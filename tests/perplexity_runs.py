"""Runs of the pretraining curves: all there are, and what one leaves behind."""

import json
import pathlib

from experiments.perplexity import panels, sweep

FIRST = ("GLOB", "runs/perplexity")  # text and folder of runs


def every_run():
  return {
    run.name: run
    for panel in panels.PANELS.values()
    for run in sweep.runs(panel, *FIRST)
  }


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

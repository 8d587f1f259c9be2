"""Trains one run for each of several seeds, and compares their scores."""

import json
import math
import statistics
from typing import Any

from linformer_jax import step as step_lib
from linformer_jax.run import (
  command_line,
  commands,
  files,
  report,
  result,
  workdir,
)

TABLE = "seeds.json"


def train(config, directory, seeds: list[int]) -> dict[str, Any]:
  """Trains in directory/seed0, directory/seed1, ..., one after the other.

  Complete runs are skipped and one that was interrupted resumes. `config.seed`
  is set to each seed, and with it what follows it.

  Args:
    config: the config of all runs.
    directory: the folder of their folders.
    seeds: the seeds.

  Returns:
    The contents of seeds.json.

  Raises:
    UsageError: see `commands.train`; also if the folder is that of a run.
  """
  if (directory / workdir.CONFIG).exists():
    raise command_line.UsageError(
      f"--workdir={directory} holds a run: with --seeds, name a folder for "
      "several"
    )
  task, runs = step_lib.task_of(config), []
  for seed in seeds:
    folder = directory / command_line.seed_folder(seed)
    report.say(f"seed {seed}, in {folder}")
    config.seed = seed
    commands.train(config, folder, new=False, extend=False)
    found = json.loads((folder / result.RESULT).read_text())
    runs.append({"seed": seed} | _score(task, found))
  table = {"metric": task.headline, "runs": runs} | _moments(runs)
  files.write_atomically(directory / TABLE, json.dumps(table, indent=1) + "\n")
  report.say(show(table, task.number))
  return table


def _score(task, found) -> dict[str, Any]:
  """Returns a run's best score, or its last, and the update it is of."""
  best = f"best_{task.headline}"
  if best in found:
    return {"score": found[best], "step": found["best_step"]}
  return {"score": found[task.headline], "step": found["step"]}


def _moments(runs) -> dict[str, float | None]:
  """Returns the mean and the sample standard deviation, None of one run."""
  scores = [run["score"] for run in runs]
  finite = all(map(math.isfinite, scores))
  several = finite and len(scores) > 1
  return {
    "mean": statistics.fmean(scores),
    "standard_deviation": statistics.stdev(scores) if several else None,
  }


def show(table: dict[str, Any], number: str) -> str:
  """Returns the table as text, with scores in the format `number`."""
  lines = [f"\n{'seed':>10}  {table['metric']:>10}  update"]
  lines += [
    f"{run['seed']:>10}  {run['score']:>10{number}}  {run['step']:,}"
    for run in table["runs"]
  ]
  lines.append(f"{'mean':>10}  {table['mean']:>10{number}}")
  if table["standard_deviation"] is not None:
    lines.append(f"{'std':>10}  {table['standard_deviation']:>10{number}}")
  return "\n".join(lines)

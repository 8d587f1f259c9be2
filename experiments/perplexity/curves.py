"""The curve of a run, and the files of curves: one JSON line a run."""

import json
import pathlib

from flax import traverse_util

from linformer_jax import step
from linformer_jax.run import files, metrics, report

RESULTS = pathlib.Path(__file__).parent / "results"
# Columns of a record's evaluations: updates completed, tokens and FLOPs of
# them, seconds spent in them without compilation, evaluation and saving, and
# the validation perplexity.
COLUMNS = ("step", "tokens", "seconds", "flops", "perplexity")
# Fields whose names have changed since runs were recorded.
_RENAMED = {"data.mask_rate": "task.mask_rate"}
# Where text and runs lie, and how often one looks: no part of what was run.
_PLACES = (
  "run.",
  "mesh.",
  "data.files",
  "data.cache_dir",
  "data.tfds_data_dir",
)


def plateau(evaluations, unigram: float) -> int | None:
  """Updates to leave the plateau of word frequencies.

  Args:
    evaluations: rows of `COLUMNS`, in order.
    unigram: perplexity of word frequencies on the same targets.

  Returns:
    The update of the first evaluation with less than half of the unigram
    perplexity, or None if there is none.
  """
  for row in evaluations:
    if row[-1] < unigram / 2:
      return row[0]
  return None


def settings(config) -> dict:
  """What a run is, as {'group.field': value}: its config without places."""
  flat = traverse_util.flatten_dict(
    json.loads(json.dumps(config.to_dict())), sep="."
  )
  return {k: x for k, x in flat.items() if not k.startswith(_PLACES)}


def is_of(record: dict, config) -> bool:
  """Whether a record is of a config. A field younger than it is passed over."""
  theirs = {_RENAMED.get(k, k): x for k, x in record["config"].items()}
  return theirs.items() <= settings(config).items()


def update_flops(config) -> int:
  """FLOPs that one update needs, forward and backward."""
  return 3 * config.train.batch_size * step.task_of(config).flops()


def evaluations(rows, config) -> list[list]:
  """Rows of `COLUMNS` from those of a metrics.jsonl.

  A training row tells the mean seconds of the updates since the one before it.
  """
  tokens = config.train.batch_size * config.data.sequence_length
  needed = update_flops(config)
  seconds, before, found = 0.0, 0, []
  # At one update the training row comes first, whichever was written first.
  for row in sorted(rows, key=lambda row: (row["step"], "eval/loss" in row)):
    updates = row["step"]
    if "train/step_seconds" in row:
      seconds += (updates - before) * row["train/step_seconds"]
      before = updates
    elif "eval/loss" in row:
      found.append(
        [
          updates,
          updates * tokens,
          round(seconds, 2),
          updates * needed,
          row["eval/perplexity"],
        ]
      )
  return found


def record(name: str, point, seed: int, config, workdir) -> dict:
  """The record of a run that is complete.

  Args:
    name: of the run.
    point: the `panels.Point`.
    seed: of the run.
    config: all of its config.
    workdir: its folder.
  """
  folder = files.folder(workdir)
  result = json.loads((folder / report.RESULT).read_text())
  curve = evaluations(metrics.read_json_lines(folder), config)
  return {
    "run": name,
    "argument": point.argument,
    "flags": dict(point.flags),
    "seed": seed,
    "plateau_updates": plateau(curve, result["unigram_perplexity"]),
    **result,
    "config": settings(config),
    "evaluations": curve,
  }


def records(path: pathlib.Path) -> dict[str, dict]:
  """Records of a file by the name of their run."""
  if not path.exists():
    return {}
  lines = map(json.loads, path.read_text().splitlines())
  return {line["run"]: line for line in lines}


def save(path: pathlib.Path, found: dict[str, dict]):
  """Writes the records of a file, all or none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(line) + "\n" for line in found.values())
  files.write_atomically(path, text)

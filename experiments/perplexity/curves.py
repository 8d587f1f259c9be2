"""The curve of a run, and the files of curves: one JSON line per run."""

import json
import pathlib

from flax import traverse_util

from linformer_jax import step
from linformer_jax.run import files, metrics
from linformer_jax.run import result as result_lib

RESULTS = pathlib.Path(__file__).parent / "results"
# Columns of a record's evaluations: updates completed and their tokens, seconds
# (without compilation, evaluation and saving) and FLOPs, and the validation
# perplexity.
COLUMNS = ("step", "tokens", "seconds", "flops", "perplexity")
# Fields of Linformer, which softmax attention had too when runs were recorded.
_LINFORMER = {
  f"model.{name}": f"attention.{name}"
  for name in (
    "projected_length",
    "projected_lengths",
    "sharing",
    "projection",
    "projection_init",
    "projection_std",
    "local_window",
  )
}
# Fields whose names have changed since runs were recorded.
_RENAMED = _LINFORMER | {
  "data.mask_rate": "task.mask_rate",
  "model.attention": "attention.name",
  "model.attention_dropout_rate": "attention.dropout_rate",
  "model.attention_implementation": "attention.implementation",
}
# Prefixes of fields that do not affect a run's result.
_PLACES = (
  "run.",
  "mesh.",
  "data.files",
  "data.validation_files",
  "data.cache_dir",
  "data.tfds_data_dir",
)


def plateau(evaluations, unigram: float) -> int | None:
  """Returns the updates needed to leave the plateau at unigram perplexity.

  Args:
    evaluations: rows of `COLUMNS`, in order.
    unigram: the unigram perplexity on the same targets.

  Returns:
    The update of the first evaluation with less than half the unigram
    perplexity, or None.
  """
  for row in evaluations:
    if row[-1] < unigram / 2:
      return row[0]
  return None


def settings(config) -> dict:
  """Returns {'group.field': value} of a config without `_PLACES`."""
  flat = traverse_util.flatten_dict(
    json.loads(json.dumps(config.to_dict())), sep="."
  )
  return {k: x for k, x in flat.items() if not k.startswith(_PLACES)}


def is_of(record: dict, config) -> bool:
  """Returns whether a record has this config, ignoring fields added since."""
  ours = settings(config)
  theirs = {
    _RENAMED.get(k, k): x
    for k, x in record["config"].items()
    if k not in _LINFORMER or _LINFORMER[k] in ours
  }
  return theirs.items() <= ours.items()


def update_flops(config) -> int:
  """Returns the FLOPs that one update needs, forward and backward."""
  return 3 * config.train.batch_size * step.task_of(config).flops()


def evaluations(rows, config) -> list[list]:
  """Returns rows of `COLUMNS` from those of a metrics.jsonl.

  A training row has the mean seconds of the updates since the previous one.
  """
  tokens = config.train.batch_size * config.data.sequence_length
  needed = update_flops(config)
  seconds, before, found = 0.0, 0, []
  # The training row of an update comes first, in whatever order they are.
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
  """Returns the record of a complete run.

  Args:
    name: the run's name.
    point: the `panels.Point`.
    seed: the run's seed.
    config: the run's full config.
    workdir: the run's folder.
  """
  folder = files.folder(workdir)
  result = json.loads((folder / result_lib.RESULT).read_text())
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
  """Returns the records of a file by run name."""
  if not path.exists():
    return {}
  lines = map(json.loads, path.read_text().splitlines())
  return {line["run"]: line for line in lines}


def save(path: pathlib.Path, found: dict[str, dict]):
  """Writes the records of a file atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(line) + "\n" for line in found.values())
  files.write_atomically(path, text)

"""The result of a run: curve.png, result.json, and the summary it prints."""

import json
from typing import Any

import jax

from linformer_jax import hardware, models
from linformer_jax.run import files, metrics, report

RESULT = "result.json"
_SUMMARY = """
Done: {step:,} updates, {tokens:,} tokens, {parameters:,} parameters, in {time}
of training.
{scores}
  speed                  {tokens_per_second:,.0f} tokens/s, MFU {mfu:.0%} of \
{gigaflops:,.0f} GFLOP/s
                         ({peak_source})
  run                    {workdir}/: curve.png, metrics.jsonl, checkpoints

Next:
  ./launch.sh tensorboard     # curves in the browser
  ./launch.sh --new           # the same again, in a new folder
  ./launch.sh train --config=configs/linformer.py:n=512,k=128 --workdir=runs/x
  ./launch.sh test            # the test suite"""


def _scores(task, result):
  """Yields (name, text) for the metrics of a run and its task's floor."""
  value, floor = result[task.headline], result[task.floor_name]
  name = task.floor_name.replace("_", " ")
  yield (
    f"validation {task.headline}",
    report.against(task, value, floor),
  )
  if "best_step" in result:
    kept = result[f"best_{task.headline}"]
    yield (
      f"best {task.headline}",
      f"{kept:{task.number}}, after {result['best_step']:,} updates; this "
      "checkpoint is kept",
    )
  targets = f"{result['targets']:,.0f} {task.unit}"
  yield name, f"{floor:{task.number}}, on the same {targets}"
  if task.headline != "accuracy" and "accuracy" in result:
    yield "accuracy", f"{result['accuracy']:.1%} of {task.unit}"


def read(directory) -> dict[str, Any]:
  """Returns result.json of a complete run, or {} if there is none."""
  path = directory / RESULT
  try:
    return json.loads(path.read_text()) if path.exists() else {}
  except ValueError:
    return {}


def show(task, result, workdir) -> str:
  """Returns the summary of a complete run."""
  return _SUMMARY.format(
    **result,
    scores="\n".join(
      f"  {name:22} {text}" for name, text in _scores(task, result)
    ),
    workdir=workdir,
    time=report.clock(result["busy_seconds"]),
    gigaflops=result["peak_flops"] / 1e9,
  )


def finished(directory, task, num_steps) -> str | None:
  """Returns the summary of a complete run, or None."""
  path = directory / RESULT
  if not path.exists():
    return None
  try:
    result = json.loads(path.read_text())
    if result["step"] != num_steps:
      return None
    return show(task, result, directory)
  except (ValueError, KeyError, TypeError):
    report.say(f"{path} cannot be read: rebuilding it from the checkpoint")
    return None


def draw_curve(workdir, task, floor: float):
  """Draws a run's headline metric against updates as curve.png.

  Args:
    workdir: the run's folder, with its metrics.jsonl.
    task: a `tasks.Task`, or its class.
    floor: the same metric without a model.

  Returns:
    The path of curve.png.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot, ticker

  rows = metrics.read_json_lines(workdir)
  figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
  for prefix, style in (("train", {"alpha": 0.4}), ("eval", {"marker": "o"})):
    name = f"{prefix}/{task.headline}"
    points = [(row["step"], row[name]) for row in rows if name in row]
    if points:
      label = {"train": "training", "eval": "validation"}[prefix]
      axes.plot(*zip(*points, strict=True), label=label, **style)
  label = task.floor_name.replace("_", " ")
  axes.axhline(floor, color="gray", linestyle="--", label=label)
  axes.set(
    xlabel="updates",
    ylabel=f"{task.headline} of {task.unit}",
    yscale=task.scale,
  )
  axes.yaxis.set_major_formatter(ticker.ScalarFormatter())
  axes.yaxis.set_minor_formatter(ticker.ScalarFormatter())
  workdir = files.folder(workdir)
  axes.set_title(workdir.name)
  axes.grid(True, which="both", alpha=0.3)
  axes.legend()
  path = workdir / "curve.png"
  with path.open("wb") as file:
    figure.savefig(file, format="png", dpi=120)
  pyplot.close(figure)
  return path


def summarize(experiment, workdir, final, throughput, best=None) -> dict:
  """Draws curve.png, writes result.json and returns its content.

  Args:
    experiment: as returned by `train.build`.
    workdir: the run's folder.
    final: the metrics of the last evaluation.
    throughput: the `Throughput` of the whole run.
    best: as `Best.result`; None if the run does not keep its best checkpoint.
  """
  config, task = experiment.config, experiment.steps.task
  total = config.train.num_steps
  params = experiment.steps.abstract_state.params
  data = experiment.corpus.record
  result = {
    "step": total,
    **{
      name.removeprefix("eval/"): value
      for name, value in final.items()
      if name != "eval/seconds"
    },
    task.floor_name: experiment.floor,
    **(best or {}),
    "parameters": models.num_parameters(params),
    "tokens": total * config.train.batch_size * config.data.sequence_length
    - throughput.saved_tokens,
    "train_blocks": len(experiment.corpus.train),
    "validation_blocks": len(experiment.corpus.validation),
    **getattr(experiment.corpus, "facts", {}),
    "busy_seconds": throughput.busy_seconds,
    "wall_seconds": throughput.wall_seconds,
    **throughput.average(total),
    "peak_flops": throughput.peak,
    "peak_source": throughput.peak_source,
    **hardware.environment(),
    "data_sha256": data and data.sha256,
  }
  if jax.process_index() == 0:
    draw_curve(workdir, task, experiment.floor)
    text = json.dumps(result, indent=1) + "\n"
    files.write_atomically(files.folder(workdir) / RESULT, text)
  return result

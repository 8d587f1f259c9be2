"""Renders the fine-tuned models into their page.

  .venv/bin/python -m experiments.finetune.render

Writes experiments/finetune/README.md between its markers. A test renders again
and compares.
"""

import csv
import pathlib

import numpy as np

from experiments import documents, grid
from experiments import page as page_lib
from experiments.finetune import buckets, data, floors, measure
from experiments.finetune.measure import Item

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
PAPER = HERE / "paper_table2.csv"
MARK = "<!-- experiments/finetune/render.py: {} -->"
LABELS = {
  "majority": "the most frequent label",
  "tfidf": "TF-IDF and logistic regression",
  measure.UNTRAINED: "softmax attention, not pretrained",
} | {name: label for name, (label, _, _) in measure.MODELS.items()}
# Columns of a model in the paper's table: k and sharing.
THEIRS = {
  "softmax": ("", ""),
  "headwise": ("128", "none stated"),
  "key_value": ("128", "shared kv"),
  "layerwise": ("128", "shared kv, layer"),
  "half": ("256", "none stated"),
}


def digits(text: str) -> np.ndarray:
  """Returns the labels in a string of digits, int [texts]."""
  return np.array(list(text), int)


def score(metric: str, answers, labels, counts=None):
  """Returns accuracy or the F1 of label 1.

  Args:
    metric: 'accuracy' or 'f1'.
    answers, labels: [..., texts].
    counts: [samples, texts], how often a sample holds each text; by default
      each text once.

  Returns:
    [...], or [..., samples].
  """
  answers, labels = np.asarray(answers), np.asarray(labels)
  counts = np.ones((1, labels.shape[-1])) if counts is None else counts
  if metric == "accuracy":
    found = (answers == labels) @ counts.T / counts.sum(-1)
  else:
    hits = (answers * labels) @ counts.T
    found = 2 * hits / np.maximum((answers + labels) @ counts.T, 1)
  return found[..., 0] if len(counts) == 1 else found


def _runs(records, task: str, model: str) -> list[dict]:
  rate = 0.0 if model in floors.MODELS else measure.CHOSEN
  found = (records.get(Item(task, model, rate, seed)) for seed in measure.SEEDS)
  return [record for record in found if record]


def _answers(found: list[dict]):
  """Returns the answers of each seed, and the labels."""
  return (
    np.stack([digits(record["answers"]) for record in found]),
    digits(found[0]["labels"]),
  )


def difference(records, task: str, model: str, base: str = "softmax"):
  """Returns a model's mean score over another's, with its 95% interval.

  Texts are drawn with replacement, the same ones for both models; the scores of
  the seeds that both have are averaged, so the interval does not cover seeds.

  Returns:
    (value, low, high), or None if one of them has no run.
  """
  metric = data.TASKS[task].metric
  found = [_runs(records, task, name) for name in (model, base)]
  if not all(found):
    return None
  most = min(map(len, found))
  pairs = [_answers(one[:most]) for one in found]
  texts = pairs[0][1].size
  counts = documents.times_drawn(texts, documents.RESAMPLES, 0)
  value, drawn = (
    score(metric, *pairs[0], counts=which).mean(0)
    - score(metric, *pairs[1], counts=which).mean(0)
    for which in (None, counts)
  )
  low, high = np.quantile(drawn, [0.025, 0.975])
  return float(value), float(low), float(high)


def scores(records) -> str:
  """Returns the mean score of each model on each task, and its spread."""
  names = [
    f"{task.label}, {'F1' if task.metric == 'f1' else 'accuracy'}"
    for task in data.TASKS.values()
  ]
  lines = [
    f"| model | {' | '.join(names)} | the mean of all |",
    "|---|" + "---:|" * (len(names) + 1),
  ]
  for model in LABELS:
    cells, means = [], []
    for name, task in data.TASKS.items():
      found = _runs(records, name, model)
      if not found:
        cells.append("")
        continue
      values = 100 * score(task.metric, *_answers(found))
      means.append(values.mean())
      cells.append(page_lib.spread(values))
    if any(cells):
      whole = len(means) == len(data.TASKS)
      cells.append(f"{np.mean(means):.1f}" if whole else "")
      lines.append(f"| {LABELS[model]} | {' | '.join(cells)} |")
  return "\n".join(lines)


def paper() -> list[dict]:
  """Returns the rows of the paper's Table 2."""
  with PAPER.open() as file:
    return list(csv.DictReader(line for line in file if line[0] != "#"))


def theirs(model: str, column: str) -> float | None:
  """Returns points of a model over softmax attention in the paper, n = 512."""
  if model not in THEIRS:
    return None
  rows = [row for row in paper() if row["n"] == "512"]
  base = next(row for row in rows if row["model"].startswith("RoBERTa"))
  k, sharing = THEIRS[model]
  row = base if not k else next(
    row for row in rows
    if row["k"] == k and row["sharing"].split(" (")[0] == sharing
  )  # fmt: skip
  return float(row[column]) - float(base[column])


def against(records) -> str:
  """Returns points over softmax attention, here and in the paper."""
  names = [f"{t.label} | {t.beside}, paper" for t in data.TASKS.values()]
  lines = [
    f"| model | {' | '.join(names)} |",
    "|---|" + "---:|" * 2 * len(names),
  ]
  for model in (*measure.MODELS, measure.UNTRAINED):
    if model == "softmax":
      continue
    cells = []
    for name, task in data.TASKS.items():
      found, printed = difference(records, name, model), theirs(
        model, task.beside
      )  # fmt: skip
      cells.append(
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * x for x in found))
        if found
        else ""
      )
      cells.append("" if printed is None else f"{printed:+.1f}")
    if any(cells[::2]):
      lines.append(f"| {LABELS[model]} | {' | '.join(cells)} |")
  return "\n".join(lines)


def pretraining(records) -> str:
  """Returns the masked-token loss of each pretrained model."""
  lines = [
    "| model | parameters | nats per masked subword | over softmax attention |",
    "|---|---:|---:|---:|",
  ]
  base = records.get(Item(measure.PRETRAINING, "softmax"))
  for model in measure.MODELS:
    found = records.get(Item(measure.PRETRAINING, model))
    if not found:
      continue
    over = ""
    if base and base is not found:
      values = documents.interval(found["documents"], base["documents"])
      over = "{:.3f} ({:.3f} to {:.3f})".format(*values)
    lines.append(
      f"| {LABELS[model]} | {found['parameters']:,} | {found['nats']:.3f} "
      f"| {over} |"
    )
  return "\n".join(lines)


def pilots(records) -> str:
  """Returns the validation scores that chose the learning rate."""
  lines = [
    "| model | task | "
    + " | ".join(f"{rate:g}" for rate in measure.RATES)
    + " |",
    "|---|---|" + "---:|" * len(measure.RATES),
  ]
  for model, task in measure.PILOTS:
    found = [
      records.get(Item(task, model, rate, split="validation"))
      for rate in measure.RATES
    ]
    metric = data.TASKS[task].metric
    cells = [
      f"{100 * score(metric, *_answers([one]))[0]:.1f}" if one else ""
      for one in found
    ]
    if any(cells):
      label = data.TASKS[task].label
      lines.append(f"| {LABELS[model]} | {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def speedups(records) -> str:
  """Returns how much faster updates in length buckets are."""
  if not records:
    return "Not run yet."
  lines = [
    "| task | "
    + " | ".join(LABELS[model] for model in buckets.MODELS)
    + " | tokens, padded to 128 | tokens in buckets |",
    "|---|" + "---:|" * (len(buckets.MODELS) + 2),
  ]
  for name, task in data.TASKS.items():
    found = [records.get(buckets.Item(name, model)) for model in buckets.MODELS]
    if None in found:
      continue
    cells = [task.label]
    for ratio, low, high in map(buckets.speedup, found):
      cells.append(f"{ratio:.2f} ({low:.2f} to {high:.2f})")
    cells += [f"{count:,}" for count in found[0]["tokens"].values()]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def parts(records) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {
    "scores": scores(records),
    "against": against(records),
    "pretraining": pretraining(records),
    "pilots": pilots(records),
    "buckets": speedups(grid.records(buckets.RESULTS, buckets.Item)),
    "on": page_lib.runs(
      record for record in records.values() if record.get("run_seconds")
    ),
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page."""
  records = grid.records(measure.RESULTS, Item)
  page_lib.write(PAGE, parts(records))


if __name__ == "__main__":
  main()

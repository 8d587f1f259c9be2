"""Renders the conversion of MiniLM-L6 into its page.

  .venv/bin/python -m experiments.convert.render

Writes experiments/convert/README.md between its markers. A test renders again
and compares.
"""

import pathlib
import statistics

from experiments import documents, grid
from experiments import page as page_lib
from experiments.convert import longer, measure
from experiments.convert import time as time_lib
from experiments.hybrid import measure as hybrid

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/convert/render.py: {} -->"
NAMES = {"mrpc": "MRPC", "trecqa": "TrecQA", "imdb": "IMDB"}


def _line(item: measure.Item, record: dict) -> str:
  sets = [record["sets"][name] for name in NAMES]
  updates = f"{record['updates']:,}" if item.minutes else ""
  minutes = f"{item.minutes}, mixed" if item.texts == "mixed" else item.minutes
  cells = [item.start, str(item.k), str(minutes), updates]
  cells += [f"{one['spearman']:.4f}" for one in sets]
  cells += [f"{one['cosine']:.3f}" for one in sets]
  cells += [f"{one['labels']:.3f}" for one in sets if "labels" in one]
  return f"| {' | '.join(cells)} |"


def table(records: dict) -> str:
  """Returns the agreement of each item with the original."""
  names = list(NAMES.values())
  heads = ["start", "k", "minutes", "updates"]
  heads += [f"ρ, {name}" for name in names]
  heads += [f"cosine, {name}" for name in names]
  heads += [f"ρ with labels, {name}" for name in names[:2]]
  lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
  lines += [
    _line(item, records[item]) for item in measure.items() if item in records
  ]
  return "\n".join(lines)


def sets(records: dict) -> str:
  """Returns the sets of texts, and the original on them."""
  lines = [
    "| texts | pairs | mean tokens | ρ of the original with labels |",
    "|---|---:|---:|---:|",
  ]
  record = next(iter(records.values()))
  for name, label in NAMES.items():
    one = record["sets"][name]
    original = one.get("labels_original")
    told = "" if original is None else f"{original:.3f}"
    lines.append(f"| {label} | {one['pairs']} | {one['tokens']} | {told} |")
  return "\n".join(lines)


def times(records: dict) -> str:
  """Returns the times of a forward pass."""
  lines = [
    "| n | softmax | softmax in blocks | 128 slots | speedup over the faster |",
    "|---:|---:|---:|---:|---:|",
  ]
  for item, record in records.items():
    cells = [
      f"{statistics.median(record['seconds'][name]):.3f} s"
      if name in record["seconds"]
      else ""
      for name in ("softmax", "softmax in blocks", "slots")
    ]
    ratio = f"**{time_lib.ratio(record):.2f}×**"
    lines.append(f"| {item.n:,} | {' | '.join(cells)} | {ratio} |")
  return "\n".join(lines)


def lengths(records: dict) -> str:
  """Returns the loss of our models at each length."""
  lines = [
    "| model | n | positions | updates of training on | nats per subword |",
    "|---|---:|---|---:|---:|",
  ]
  for item, record in records.items():
    loss, low, high = documents.interval(record["documents"])
    cells = [hybrid.LABELS[item.model], f"{item.n:,}", item.positions]
    cells += [f"{item.updates:,}", f"{loss:.3f} ({low:.3f} to {high:.3f})"]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def environment(*groups: dict) -> str:
  """Describes the hardware of each file."""
  told = [
    page_lib.machines(records.values(), cpu=True)
    for records in groups
    if records
  ]
  return "; ".join(told) + "."


def parts() -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  found = grid.records(measure.RESULTS, measure.Item)
  timed = grid.records(time_lib.RESULTS, time_lib.Item)
  made = grid.records(longer.RESULTS, longer.Item)
  stretched = {item: made[item] for item in longer.items() if item in made}
  texts = {
    "sets": sets(found),
    "similarities": table(found),
    "times": times(timed),
    "lengths": lengths(stretched),
    "on": environment(found, timed, stretched),
  }
  return {MARK.format(name): text for name, text in texts.items()}


def main():
  """Renders the page."""
  page_lib.write(PAGE, parts())


if __name__ == "__main__":
  main()

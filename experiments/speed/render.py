"""Renders the measured tables and figures into their page.

  .venv/bin/python -m experiments.speed.render

Writes experiments/speed/README.md between its markers, and results/*.png. A
test renders again and compares.
"""

import csv
import math
import pathlib
import statistics

import numpy as np

from experiments import page as page_lib
from experiments.speed import (
  accelerator,
  accelerator_page,
  cells,
  measure,
  memory,
)
from experiments.speed import cell as cell_lib

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
MARK = "<!-- experiments/speed/render.py: {} -->"
FIGURE = HERE / "results" / "figure2.png"
# Footnote marks of numbers.
BLOCKED, FEW = "†", "‡"


class Times:
  """Medians of the measured cells."""

  def __init__(self, records: dict[cells.Cell, dict]):
    self.records = records

  def record(self, scope, name, n, k=0, what="forward"):
    """Returns a record, or None if the cell was not measured."""
    depth = cells.depth(n) if scope == "stack" else 1
    return self.records.get(cells.Cell(scope, name, n, k, what, depth))

  def seconds(self, *where):
    """Returns the seconds per layer and sequence, or nan."""
    record = self.record(*where)
    if record is None or "seconds" not in record:
      return math.nan
    batch = max(1, cells.TOKENS // record["n"])
    return statistics.median(record["seconds"]) / record["depth"] / batch

  def mark(self, *where):
    """Returns the footnote marks of a cell."""
    record = self.record(*where) or {}
    few = FEW if len(record.get("seconds", [0] * 3)) < 3 else ""
    plain = where[1] == "softmax" and record.get("query_block")
    return (BLOCKED if plain else "") + few

  def share(self, *where):
    """Returns needed FLOP/s over the product rate of the same process."""
    record = self.record(*where)
    if record is None or "seconds" not in record:
      return math.nan
    ideal = record["flops_needed"] / record["product_rate"]
    return ideal / statistics.median(record["seconds"])


def _table(corner, columns, rows):
  head = f"| {corner} | " + " | ".join(columns) + " |"
  lines = [head, "|---|" + "---:|" * len(columns)]
  for name, texts in rows:
    lines.append(f"| {name} | " + " | ".join(texts) + " |")
  return "\n".join(lines)


def _number(x, unit=""):
  if math.isnan(x):
    return "–"
  return (f"{x:.0f}" if x >= 100 else f"{x:.3g}") + unit


def by_n_and_k(cell_text) -> str:
  """Returns a table of cell_text(n, k) over the grid."""
  rows = []
  for n in cells.LENGTHS:
    texts = [cell_text(n, k) if k < n else "" for k in cells.PROJECTED]
    rows.append((f"{n:,}", texts))
  return _table("n", [f"k = {k}" for k in cells.PROJECTED], rows)


def needed_ratio(scope, other, n, k, sharing="layerwise"):
  """Returns the ratio of the FLOPs `other` needs to those of Linformer."""

  def count(name, k):
    return cell_lib.needed(cells.Cell(scope, name, n, k))

  k_other = k if other in cells.PYPI else 0
  return count(other, k_other) / count(f"linformer_{sharing}", k)


def against_softmax(times, baseline, what="forward", sharing="layerwise"):
  """Returns Table 3 (left): the speedup of stacks over `baseline`."""
  paper = cells.paper_table("table3_time")

  def text(n, k):
    other = ("stack", baseline, n, 0, what)
    ours = ("stack", f"linformer_{sharing}", n, k, what)
    ratio = times.seconds(*other) / times.seconds(*ours)
    beside = paper[n, k]
    if baseline != "softmax":
      beside = needed_ratio("stack", baseline, n, k, sharing)
    if math.isnan(ratio):
      return "–"
    marks = "".join(sorted(set(times.mark(*other) + times.mark(*ours))))
    return f"**{_number(ratio)}**{marks} ({_number(beside)})"

  return by_n_and_k(text)


def against_pypi(times, sharing, what="forward"):
  """Returns the speedup of a layer over the faster Linformer from PyPI."""

  def text(n, k):
    others = [times.seconds("layer", name, n, k, what) for name in cells.PYPI]
    others = [x for x in others if not math.isnan(x)]
    ours = times.seconds("layer", f"linformer_{sharing}", n, k, what)
    if not others or math.isnan(ours):
      return "–"
    least = needed_ratio("layer", cells.PYPI[0], n, k, sharing)
    return f"**{_number(min(others) / ours)}** ({_number(least)})"

  return by_n_and_k(text)


def shares(times, scope, what="forward"):
  """Returns a table of `Times.share` by implementation and, if Linformer, k."""
  names = [*cells.SOFTMAX, *([cells.TORCH] if scope == "layer" else [])]
  columns = [f"k = {k}" for k in cells.PROJECTED] + names
  rows = []
  for n in cells.LENGTHS:
    of_k = [
      times.share(scope, "linformer_layerwise", n, k, what) if k < n else None
      for k in cells.PROJECTED
    ]
    of_other = [times.share(scope, name, n, 0, what) for name in names]
    texts = ["" if x is None else _percent(x) for x in of_k + of_other]
    rows.append((f"{n:,}", texts))
  return _table("n", columns, rows)


def _percent(x):
  return "–" if math.isnan(x) else f"{x:.0%}"


def lengths(times) -> tuple[str, float]:
  """Returns a table of time and memory against n, and the log-log slope."""
  rows, ns, seconds = [], [], []
  for n in cells.LINEAR_LENGTHS:
    record = times.record("length", "linformer_layerwise", n, 128)
    if record is None or "seconds" not in record:
      continue
    middle = statistics.median(record["seconds"])
    ns.append(n)
    seconds.append(middle)
    extra = record["temporary_bytes"] / record["input_bytes"]
    rows.append(
      (
        f"{n:,}",
        [
          f"{middle:.3g}",
          f"{1e6 * middle / n:.1f}",
          _percent(times.share("length", "linformer_layerwise", n, 128)),
          f"{extra:.1%}",
          f"{record['peak_resident_bytes'] / 2**30:.2f}",
        ],
      )
    )
  columns = "s|µs a token|of product rate|temporaries / input|peak resident GiB"
  slope = float(np.polyfit(np.log(ns), np.log(seconds), 1)[0])
  return _table("n", columns.split("|"), rows), slope


def compile_times(times) -> str:
  """Returns a table of the seconds to compile the train step at two depths."""
  rows = []
  for name, k in (("linformer_headwise", 128), ("softmax", 0)):
    both = []
    for depth in (2, 24):
      cell = cells.Cell("compile", name, 512, k, "compile", depth)
      record = times.records.get(cell)
      both.append(record["seconds"][0] if record else math.nan)
    texts = [f"{x:.1f} s" for x in both] + [_number(both[1] / both[0])]
    rows.append((name.replace("_", " "), texts))
  return _table("train step", ["2 layers", "24 layers", "ratio"], rows)


def figure(times, path=FIGURE):
  """Draws Figure 2: seconds per layer for 65,536 tokens against n."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  def line(name, k=0):
    ns = [n for n in cells.LENGTHS if k < n]
    return ns, [65_536 / n * times.seconds("stack", name, n, k) for n in ns]

  panels, (ours, theirs) = plt.subplots(1, 2, figsize=(11, 4.4))
  colors = plt.get_cmap("viridis")(np.linspace(0.15, 0.85, 5))
  for name, style in (("softmax", "k-o"), ("softmax_flash", "k--s")):
    ours.plot(*line(name), style, label=name, markersize=4)
  for k, color in zip(cells.PROJECTED, colors, strict=True):
    points = line("linformer_layerwise", k)
    label = f"Linformer, k = {k}"
    ours.plot(*points, "-o", color=color, label=label, markersize=4)
  ours.set_title("Measured here: 2 CPU cores, float32")
  ours.set_ylabel("seconds a layer, 65,536 tokens")
  with (HERE / "paper_figure2.csv").open() as file:
    rows = list(csv.DictReader(line for line in file if line[0] != "#"))
  for name in ("Transformer", *(f"k{k}" for k in cells.PROJECTED)):
    points = [(int(row["n"]), float(row[name])) for row in rows if row[name]]
    color = "k"
    if name[0] == "k":
      color = colors[cells.PROJECTED.index(int(name[1:]))]
    theirs.plot(
      *zip(*points, strict=True), "-o", color=color, markersize=4, label=name
    )
  theirs.set_title("The paper's Figure 2, read off: 16 GB V100")
  theirs.set_ylabel("seconds, the whole model")
  for axes in (ours, theirs):
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("n, tokens in a sequence")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
  panels.tight_layout()
  panels.savefig(path, dpi=110)
  plt.close(panels)


def sections(times) -> dict[str, str]:
  """Returns the rendered parts of the page, by name."""
  table, slope = lengths(times)
  parts = {
    "lengths": f"{table}\n\nLog-log slope of time against n: **{slope:.3f}**.",
    "compile": compile_times(times),
    "memory": memory.table(memory.records()),
    "memory h100": memory.table(memory.records(), "h100"),
    "on": environment(times),
    "accelerator": accelerator_page.environment(),
  }
  for what in cells.PASSES:
    for kernel in accelerator.KERNELS:
      parts[f"{kernel} {what}"] = accelerator_page.table(what, kernel)
    for baseline in cells.SOFTMAX:
      parts[f"{baseline} {what}"] = against_softmax(times, baseline, what)
    parts[f"headwise {what}"] = against_softmax(
      times, "softmax", what, "headwise"
    )
    for sharing in ("layerwise", "headwise"):
      parts[f"pypi {sharing} {what}"] = against_pypi(times, sharing, what)
    for scope in ("stack", "layer"):
      parts[f"share {scope} {what}"] = shares(times, scope, what)
  return parts


def environment(times) -> str:
  """Describes the hardware and versions of the measurements."""
  found = {
    "{device}, {host}, Python {python}, jax {jax}, flax {flax}, commit "
    "{commit}".format(**record)
    for record in times.records.values()
  }
  hours = sum(r["wall_seconds"] for r in times.records.values()) / 3600
  machines = "; ".join(sorted(found))
  return f"{len(times.records)} cells on {machines}; {hours:.1f} hours in all."


def render(page: str, parts: dict[str, str]) -> str:
  """Returns the page with the text between its markers replaced."""
  marked = {MARK.format(name): text for name, text in parts.items()}
  return page_lib.renew(page, marked)


def main():
  """Renders the page and the figure."""
  times = Times(measure.records())
  PAGE.write_text(render(PAGE.read_text(), sections(times)))
  figure(times)
  accelerator_page.figure()
  print(f"rendered {PAGE.relative_to(page_lib.ROOT)} and its figures")


if __name__ == "__main__":
  main()

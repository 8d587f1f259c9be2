"""Renders the readings into figures and the page.

  .venv/bin/python -m experiments.spectrum.render

Writes results/figure1.png (imported weights), results/<run>.png for each run,
and the page between its markers. A test renders the page again and compares.
"""

import pathlib

import numpy as np

from experiments import page as page_lib
from experiments.spectrum import measure
from linformer_jax.run import report
from linformer_jax.tools import spectrum

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
MARK = "<!-- experiments/spectrum/render.py: {} -->"
IMPORTED = "MiniLM-L6"
FIGURE = "figure1.png"
# RoBERTa-base at index 128, as printed in the paper.
PAPER = {"IMDB": 0.93, "WikiText-103": 0.92}


def imported(found: list[dict]) -> list[dict]:
  """Returns the readings of imported weights."""
  return [record for record in found if record["model"] == IMPORTED]


def runs(found: list[dict]) -> dict[str, list[dict]]:
  """Returns the readings of runs trained here, by run and ordered by update."""
  by_name = {}
  for record in found:
    if record["step"] is not None:
      by_name.setdefault(record["model"], []).append(record)
  return {
    name: sorted(readings, key=lambda record: record["step"])
    for name, readings in by_name.items()
  }


def _cell(level, index=None):
  mean, spread = level["mean"], level["spread"]
  if index is not None:
    mean, spread = mean[index], spread[index]
  return f"{mean:.3f} ± {spread:.3f}"


def layer_table(found: list[dict]) -> str:
  """Returns a table of the imported weights by layer, at index n/4."""
  readings = imported(found)
  names = " | ".join(record["text"] for record in readings)
  lines = [
    f"| layer | {names} | heads from, to |",
    "|---|" + "---:|" * (len(readings) + 1),
  ]
  for layer in range(readings[0]["layers"]):
    cells = [_cell(r["at_quarter"]["layers"], layer) for r in readings]
    heads = [r["at_quarter"]["heads"]["mean"][layer] for r in readings]
    low, high = min(map(min, heads)), max(map(max, heads))
    lines.append(f"| {layer} | {' | '.join(cells)} | {low:.2f}, {high:.2f} |")
  cells = [f"**{_cell(r['at_quarter']['all'])}**" for r in readings]
  lines.append(f"| all | {' | '.join(cells)} | |")
  return "\n".join(lines)


def environment(found: list[dict]) -> str:
  """Describes the hardware and versions for the imported weights."""
  lines = []
  for record in imported(found):
    each = record["seconds"] / record["blocks"]
    lines.append(
      f"* {record['text']}: {record['blocks']} blocks of {record['length']} "
      f"tokens, {record['layers']} layers, {record['heads']} heads; "
      f"{report.clock(record['seconds'])}, {each:.2f} s a block; "
      "{device}, {host}, Python {python}, jax {jax}, flax {flax}, commit "
      "{commit}".format(**record)
    )
  digests = {record["weights_sha256"] for record in imported(found)}
  lines.append(f"* weights: SHA-256 {', '.join(sorted(digests))}")
  return "\n".join(lines)


def run_tables(found: list[dict]) -> str:
  """Returns tables of the runs trained here, by update."""
  parts = []
  for name, readings in runs(found).items():
    last = readings[-1]
    lines = [
      f"{name}: {last['attention']} attention, {last['layers']} layers, "
      f"{last['heads']} heads, n = {last['length']}, {last['blocks']} blocks "
      f"of its validation split, index {last['quarter']}; {last['host']}, jax "
      f"{last['jax']}, commit {last['commit']}.",
      "",
      "| updates | all | "
      + " | ".join(f"layer {i}" for i in range(last["layers"]))
      + " |",
      "|---:|" + "---:|" * (1 + last["layers"]),
    ]
    for record in readings:
      layers = record["at_quarter"]["layers"]
      cells = [_cell(layers, i) for i in range(record["layers"])]
      cells.insert(0, f"**{_cell(record['at_quarter']['all'])}**")
      lines.append(f"| {record['step']:,} | {' | '.join(cells)} |")
    lines += ["", f"![{name}](results/{name}.png)"]
    parts.append("\n".join(lines))
  return "\n\n".join(parts) or "Not run yet: no reading of a run is committed."


def sections(found: list[dict]) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  parts = {
    "layers": layer_table(found),
    "on": environment(found),
    "runs": run_tables(found),
  }
  return {MARK.format(name): text for name, text in parts.items()}


def figures(found: list[dict]) -> dict[str, list[dict]]:
  """Returns the readings of each figure, by file."""
  by_file = {FIGURE: imported(found)}
  by_file |= {f"{name}.png": readings for name, readings in runs(found).items()}
  return {name: readings for name, readings in by_file.items() if readings}


def with_paper(readings: list[dict]):
  """Draws Figure 1 with the paper's two numbers."""
  drawing = spectrum.draw({measure.label(r): r for r in readings})
  curves, index = drawing.axes[0], readings[0]["quarter"]
  for mark, (text, value) in zip("x+", PAPER.items(), strict=True):
    label = f"the paper's RoBERTa, {text}"
    curves.plot(index, value, f"k{mark}", label=label, linestyle="none")
  curves.legend(loc="lower right", fontsize=8)
  return drawing


def along(readings: list[dict]):
  """Draws what the first n/4 singular values of each layer hold, by update."""
  from matplotlib import figure, pyplot

  drawing = figure.Figure(figsize=(6, 3.8), layout="constrained")
  axes = drawing.subplots()
  updates = [record["step"] for record in readings]
  layers = readings[0]["layers"]
  for layer in range(layers):
    color = pyplot.get_cmap("viridis")(0.8 * layer / max(1, layers - 1))
    levels = [record["at_quarter"]["layers"] for record in readings]
    mean, spread = (
      np.array([level[name][layer] for level in levels])
      for name in ("mean", "spread")
    )
    axes.plot(updates, mean, color=color)
    axes.fill_between(
      updates, mean - spread, mean + spread, color=color, alpha=0.25
    )
    axes.annotate(
      f"layer {layer}",
      (updates[-1], mean[-1]),
      (4, -3),
      textcoords="offset points",
      color=color,
    )
  axes.axhline(0.25, color="black", linestyle=":")
  axes.annotate("a permutation", (updates[len(updates) // 2], 0.215))
  axes.set(
    xlabel="updates",
    ylabel=f"share of the first {readings[0]['quarter']} singular values",
    ylim=(0, 1.01),
    xlim=(0, 1.12 * updates[-1]),
  )
  axes.grid(True, alpha=0.3)
  return drawing


if __name__ == "__main__":
  rendered = measure.records()
  for file, readings in figures(rendered).items():
    drawing = (with_paper if file == FIGURE else along)(readings)
    drawing.savefig(measure.RESULTS.with_name(file), dpi=110)
  PAGE.write_text(page_lib.renew(PAGE.read_text(), sections(rendered)))

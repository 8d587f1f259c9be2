"""Renders the runs of linear-cost stacks into their page and figure.

  .venv/bin/python -m experiments.hybrid.render

Writes experiments/hybrid/README.md between its markers, results/gap.png, and
results/summary.png, which the main README shows.
A test renders again and compares.
"""

import itertools
import pathlib
import textwrap

import numpy as np
from matplotlib import figure as figure_lib

from experiments import documents, grid, runs
from experiments import page as page_lib
from experiments.hybrid import measure, probe, time
from experiments.hybrid.measure import Item
from experiments.mechanism import measure as mechanism
from experiments.mechanism import render as mechanism_page
from experiments.perplexity import figures as curves

PAGE = pathlib.Path(__file__).parent / "README.md"
FIGURE = measure.RESULTS.with_name("gap.png")
MARK = "<!-- experiments/hybrid/render.py: {} -->"
# Runs whose positions looked alike every 128 rows, until commit bf76fc1.
PERIODIC = measure.RESULTS.with_name("periodic.jsonl")
SUMMARY = measure.RESULTS.with_name("summary.png")
TOKENS = 1_024  # of an update
STEPS = range(measure.KEEP, measure.UPDATES + 1, measure.KEEP)
COLORS = {
  "hybrid": "tab:blue",
  "local": "tab:green",
  "above": "tab:purple",
  "quarter": "tab:red",
}
SHORT = {
  "hybrid": f"{measure.SLOTS} slots above windows",
  "local": "windows alone",
  "above": "softmax above windows",
  "quarter": "k = n/4",
}
# (kind, size, label, color) of the cuts in the summary
CUTS = (
  ("rank", mechanism.N // 4, "rank n/4", "tab:red"),
  ("band", measure.WINDOW, f"{measure.WINDOW} rows on either side", "tab:blue"),
)


class Found:
  """What was measured, with the means over seeds."""

  def __init__(
    self,
    path: pathlib.Path = measure.RESULTS,
    times: pathlib.Path = time.RESULTS,
  ):
    self.records = grid.records(path, Item)
    self.times = grid.records(times, time.Item)

  def of(self, tokens, n, model, step=measure.UPDATES, span=1) -> dict:
    """Returns the records by seed."""
    items = {
      seed: Item(tokens, n, model, seed, step, span=span)
      for seed in measure.SEEDS
    }
    return {
      seed: self.records[item]
      for seed, item in items.items()
      if item in self.records
    }

  def sums(self, *where, seeds=None, **more):
    """Returns the mean sums of each document over seeds."""
    found = self.of(*where, **more)
    return np.mean([found[s]["documents"] for s in seeds or found], 0)

  def gap(self, tokens, n, model, step=measure.UPDATES, span=1, base="softmax"):
    """Returns nats above another model's with their interval, or None.

    Over the seeds that both have; the interval covers documents alone.
    """
    both = sorted(
      self.of(tokens, n, model, step, span).keys()
      & self.of(tokens, n, base, step, span).keys()
    )
    if not both:
      return None
    own, other = (
      self.sums(tokens, n, name, step, span, seeds=both)
      for name in (model, base)
    )
    return documents.interval(own, other)


def number(found) -> str:
  """Formats a value with its interval."""
  return "" if found is None else "{:.3f} ({:.3f} to {:.3f})".format(*found)


def quality(found: Found, tokens: str, span: int = 1) -> str:
  """Returns the losses of all models at all lengths after the whole run."""
  lines = ["| n | model | seeds | nats | above softmax attention | parameters "
           "| TFLOP a run | time of an update over softmax's |",
           "|---:|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
  for n in sorted(measure.LENGTHS):
    for model, label in measure.LABELS.items():
      records = found.of(tokens, n, model, span=span)
      if not records:
        continue
      one = next(iter(records.values()))
      timed = found.times.get(time.Item(tokens, n))
      timed = timed if timed and model in timed["seconds"] else None
      cost = one["update_flops"] * one["updates"] / 1e12
      nats = documents.interval(found.sums(tokens, n, model, span=span))
      gap = "" if model == "softmax" else found.gap(tokens, n, model, span=span)
      lines.append(
        f"| {n:,} | {label} | {len(records)} | {number(nats)} "
        f"| {number(gap or None)} | {one['parameters']:,} | {cost:.1f} | "
        + (f"{time.ratio(timed, model)[0]:.2f}" if timed else "")
        + " |"
      )
  return "\n".join(lines)


def _by_step(models, cell) -> str:
  """Returns a table of cell(tokens, n, model, step), without empty rows."""
  lines = [
    "| tokens | n | model | "
    + " | ".join(f"{step:,} updates" for step in STEPS)
    + " |",
    "|---|---:|---|" + "---:|" * len(STEPS),
  ]
  for tokens, name in runs.NAMES.items():
    for n in sorted(measure.LENGTHS):
      for model in models:
        cells = [cell(tokens, n, model, step) for step in STEPS]
        if any(cells):
          label = measure.LABELS[model]
          lines.append(f"| {name} | {n:,} | {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def along(found: Found) -> str:
  """Returns nats above softmax attention along the runs."""
  return _by_step(COLORS, lambda *where: number(found.gap(*where)))


def slots(found: Found) -> str:
  """Returns what the stack loses against other attention in its upper layers.

  Those are windows, so that no layer sees farther, or softmax attention.
  """
  lines = [
    "| tokens | n | masks | above windows alone "
    "| above softmax attention in place of slots |",
    "|---|---:|---|---:|---:|",
  ]
  for span in (1, *measure.SPANS):
    masks = "single" if span == 1 else f"spans of {span}"
    for tokens, name in runs.NAMES.items():
      for n in sorted(measure.LENGTHS):
        gaps = [
          found.gap(tokens, n, "hybrid", span=span, base=base)
          for base in ("local", "above")
        ]
        if any(gaps):
          cells = " | ".join(map(number, gaps))
          lines.append(f"| {name} | {n:,} | {masks} | {cells} |")
  return "\n".join(lines)


def moves(found: Found) -> str:
  """Returns how far E and F move along the runs, over their start."""

  def cell(*where):
    records = found.of(*where).values()
    moved = [x for record in records for x in record["moved"].values()]
    return f"{min(moved):.2f} to {max(moved):.2f}" if moved else ""

  return _by_step(measure.LABELS, cell)


def pilots(found: Found) -> str:
  """Returns the runs that chose the learning rates."""
  rates = sorted({rate for tried in measure.RATES.values() for rate in tried})
  lines = [
    "| tokens | n | model | "
    + " | ".join(f"{rate:g}" for rate in rates)
    + " |",
    "|---|---:|---|" + "---:|" * len(rates),
  ]
  for tokens, n in measure.TRIED:
    for model in measure.RATES:
      nats = {
        item.rate: f"{found.records[item]['nats']:.3f}"
        for item in measure.pilots(tokens, n)
        if item.model == model and item in found.records
      }
      if nats:
        cells = " | ".join(nats.get(rate, "") for rate in rates)
        label = measure.LABELS[model]
        lines.append(f"| {runs.NAMES[tokens]} | {n:,} | {label} | {cells} |")
  return "\n".join(lines)


def periodic(found: Found, path: pathlib.Path = PERIODIC) -> str:
  """Returns what positions with a period of 128 rows cost.

  A run beside one of the same rate, or if it is a whole run beside that of its
  model's best rate.
  """
  lines = [
    "| n | model | updates | rate | with a period of 128 rows | rate "
    "| without |",
    "|---:|---|---:|---:|---:|---:|---:|",
  ]
  old = grid.records(path, Item)
  for item in sorted(old, key=lambda item: (item.n, item.updates)):
    now = item
    if item.updates == measure.UPDATES:
      now = Item(item.tokens, item.n, item.model, item.seed, item.step)
    if item.step == item.updates and now in found.records:
      lines.append(
        f"| {item.n:,} | {measure.LABELS[item.model]} | {item.updates:,} "
        f"| {item.rate:g} | {old[item]['nats']:.3f} | {now.rate:g} "
        f"| {found.records[now]['nats']:.3f} |"
      )
  return "\n".join(lines)


def probes(path: pathlib.Path = probe.RESULTS) -> str:
  """Returns how many questions are answered in the end, by k."""
  records = grid.records(path, probe.Item)
  lines = [
    "| task | model | seeds | "
    + " | ".join(f"k = {k}" if k else "no slots" for k in (0, *probe.LENGTHS))
    + " |",
    "|---|---|---:|" + "---:|" * (1 + len(probe.LENGTHS)),
  ]

  def cell(*what) -> str:
    found = [
      records[item]["right"]
      for seed in probe.SEEDS
      if (item := probe.Item(*what, probe.RATE, seed)) in records
    ]
    if not found:
      return ""
    shares = sorted({f"{100 * right[-1]:.0f}" for right in found}, key=float)
    updates = max(len(right) for right in found) * probe.EVERY
    after = f", after {updates:,}" if updates < probe.UPDATES else ""
    return f"{' to '.join((shares[0], shares[-1])[: len(shares)])}%{after}"

  for task, (model, label) in itertools.product(
    probe.TASKS, probe.LABELS.items()
  ):
    cells = [cell(task, model, k) for k in (0, *probe.LENGTHS)]
    seeds = {
      item.seed for item in records if (item.task, item.model) == (task, model)
    }
    if any(cells):
      row = " | ".join(cells)
      lines.append(f"| {task} | {label} | {len(seeds)} | {row} |")
  return "\n".join(lines)


def probe_rates(path: pathlib.Path = probe.RESULTS) -> str:
  """Returns answers by learning rate, of slots of one k."""
  records = grid.records(path, probe.Item)
  rates = sorted({probe.RATE, *probe.TRIED})
  lines = [
    "| task | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
    "|---|" + "---:|" * len(rates),
  ]
  for task in probe.TASKS:
    items = [probe.Item(task, "slots", probe.LENGTHS[-2], r) for r in rates]
    cells = [
      f"{100 * records[item]['right'][-1]:.0f}%" if item in records else ""
      for item in items
    ]
    lines.append(f"| {task} | {' | '.join(cells)} |")
  return "\n".join(lines)


def environment(found: Found) -> str:
  """Describes the evaluations and the hardware."""
  records = list(found.records.values())
  runs = {
    (r["tokens"], r["n"], r["model"], r["seed"], r["rate"], r["updates"]):
    r["run_seconds"]
    for r in records
  }  # fmt: skip
  held = {
    f"{sum(n for _, n in r['documents']):,} masked tokens of {r['tokens']} at "
    f"n = {r['n']:,}"
    for r in records
  }
  return (
    f"{len(runs)} runs, {sum(runs.values()) / 3600:.1f} hours of updates; "
    f"evaluated on {', '.join(sorted(held))}, in "
    f"{len(records[0]['documents'])} documents. On "
    f"{page_lib.machines(records, cpu=True)}."
  )


def _draw_gaps(axes, found: Found, tokens: str, n: int):
  """Draws the gap to softmax attention along the runs of one length."""
  lines = {"softmax attention": ("black", [(measure.UPDATES, 0.0, 0.0, 0.0)])}
  axes.axhline(0, color="black", linewidth=1.2)
  for model, color in COLORS.items():
    gaps = {step: found.gap(tokens, n, model, step) for step in STEPS}
    rows = [(step, *gap) for step, gap in gaps.items() if gap]
    if rows:
      lines[SHORT[model]] = color, rows
  for label, (color, rows) in lines.items():
    step, value, low, high = np.transpose(rows)
    x = step * TOKENS / 1e6
    if len(rows) > 1:
      axes.errorbar(x, value, [value - low, high - value], color=color,
                    marker="o", markersize=4, capsize=2)  # fmt: skip
    text = textwrap.fill(label, 14)
    curves.label_end(axes, text, (x[-1], value[-1]), color, 1.05, fontsize=8)
  axes.set(title=f"{runs.NAMES[tokens]}, n = {n:,}", xlabel="million tokens")
  axes.grid(True, alpha=0.3)
  axes.margins(y=0.15)


def _spread(drawing, axes):
  """Lays a figure out, and moves labels of lines apart."""
  drawing.draw_without_rendering()
  drawing.set_layout_engine("none")
  for one in axes:
    curves.spread(one)


def figure(found: Found, to: pathlib.Path = FIGURE):
  """Draws the gap to softmax attention against tokens."""
  there = [
    (tokens, n)
    for tokens in runs.NAMES
    for n in sorted(measure.LENGTHS)
    if any(found.gap(tokens, n, model) for model in COLORS)
  ]
  rows = -(-len(there) // 3)
  drawing = figure_lib.Figure((11, 3.2 * rows), layout="constrained")
  axes = drawing.subplots(rows, min(3, len(there)), squeeze=False)
  for one, where in zip(axes.flat, there, strict=False):
    _draw_gaps(one, found, *where)
  for one in axes[:, 0]:
    one.set_ylabel("nats above softmax attention")
  for one in axes.flat[len(there) :]:
    one.remove()
  _spread(drawing, axes.flat[: len(there)])
  drawing.savefig(to, dpi=90)


def summary(found: Found, cuts, to: pathlib.Path = SUMMARY):
  """Draws the gap beside what cuts of a trained softmax model lose.

  Args:
    found: the runs.
    cuts: `experiments.mechanism.render.Cuts`.
    to: the file.
  """
  drawing = figure_lib.Figure((9.5, 3.6), layout="constrained")
  left, right = drawing.subplots(1, 2)
  _draw_gaps(left, found, "bytes", 512)
  left.set(ylabel="nats above softmax attention", title="trained, n = 512")
  places = [*range(mechanism.LAYERS), mechanism.ALL_LAYERS]
  names = [*map(str, range(mechanism.LAYERS)), "all"]
  for kind, size, label, color in CUTS:
    lost = [
      cuts.lost("bytes", mechanism.UPDATES, kind, layer, size)
      for layer in places
    ]
    value, low, high = np.transpose(lost)
    right.errorbar(names, value, [value - low, high - value], fmt="o",
                   color=color, capsize=3)  # fmt: skip
    right.annotate(label, (len(names) - 1, high[-1]), (6, 5), color=color,
                   ha="right", fontsize=8,
                   textcoords="offset points")  # fmt: skip
  right.set(
    title="softmax attention, cut at evaluation",
    xlabel="layers that are cut (n = 128)",
    ylabel="nats lost",
  )
  right.grid(True, alpha=0.3)
  right.margins(y=0.15)
  _spread(drawing, [left])
  drawing.savefig(to, dpi=100)


def parts(found: Found) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {"along": along(found), "pilots": pilots(found)}
  made["slots"], made["moves"] = slots(found), moves(found)
  made |= {tokens: quality(found, tokens) for tokens in runs.NAMES}
  for span in measure.SPANS:
    made[f"spans of {span}"] = quality(found, "bytes", span)
  made["periodic"], made["on"] = periodic(found), environment(found)
  made["probes"], made["probe rates"] = probes(), probe_rates()
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page and its figure."""
  found = Found()
  PAGE.write_text(page_lib.renew(PAGE.read_text(), parts(found)))
  figure(found)
  summary(found, mechanism_page.Cuts())
  print(f"rendered {PAGE.relative_to(page_lib.ROOT)}")


if __name__ == "__main__":
  main()

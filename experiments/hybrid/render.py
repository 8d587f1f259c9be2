"""Renders the runs of linear-cost stacks into their page and figures.

  .venv/bin/python -m experiments.hybrid.render

Writes experiments/hybrid/README.md between its markers, results/gap.png, and
results/summary.png, which the main README shows. A test renders again and
compares.
"""

import pathlib

from experiments import documents, grid, runs
from experiments import page as page_lib
from experiments.hybrid import figures, measure, probe_tables, time
from experiments.hybrid.found import Found
from experiments.hybrid.measure import Item
from experiments.mechanism import render as mechanism_page

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/hybrid/render.py: {} -->"
# Runs whose positions looked alike every 128 rows, until commit bf76fc1.
PERIODIC = measure.RESULTS.with_name("periodic.jsonl")


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
    + " | ".join(f"{step:,} updates" for step in measure.STEPS)
    + " |",
    "|---|---:|---|" + "---:|" * len(measure.STEPS),
  ]
  for tokens, name in runs.NAMES.items():
    for n in sorted(measure.LENGTHS):
      for model in models:
        cells = [cell(tokens, n, model, step) for step in measure.STEPS]
        if any(cells):
          label = measure.LABELS[model]
          lines.append(f"| {name} | {n:,} | {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def along(found: Found) -> str:
  """Returns nats above softmax attention along the runs."""
  return _by_step(figures.COLORS, lambda *where: number(found.gap(*where)))


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


def parts(found: Found) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {"along": along(found), "pilots": pilots(found)}
  made["slots"], made["moves"] = slots(found), moves(found)
  made |= {tokens: quality(found, tokens) for tokens in runs.NAMES}
  for span in measure.SPANS:
    made[f"spans of {span}"] = quality(found, "bytes", span)
  made["periodic"], made["on"] = periodic(found), environment(found)
  made["probes"] = probe_tables.answers()
  made["probe rates"] = probe_tables.rates()
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page and its figure."""
  found = Found()
  page_lib.write(PAGE, parts(found))
  figures.figure(found)
  figures.summary(found, mechanism_page.Cuts())


if __name__ == "__main__":
  main()

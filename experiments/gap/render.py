"""Renders the gaps into their page.

  .venv/bin/python -m experiments.gap.render

Writes experiments/gap/README.md between its markers. A test renders again and
compares.
"""

import dataclasses
import pathlib

import numpy as np

from experiments import documents, grid
from experiments import page as page_lib
from experiments.gap import measure
from experiments.gap.measure import Item
from experiments.perplexity import panels, paper

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/gap/render.py: {} -->"
TOKENS = 1_024  # of an update
STARTS = {
  "": "",
  "pool": ", window means",
  "authors": ", N(0, 0.02²)",
}


def _by_rate(records, items, keys) -> list[str]:
  """Returns rows of losses by learning rate, after the cells of `keys`."""
  rows = {}
  for item in items:
    if item in records:
      found = rows.setdefault(keys(item), {})
      found[item.rate] = f"{records[item]['nats']:.3f}"
  return [
    _row(*key, *(nats.get(rate, "") for rate in measure.RATES))
    for key, nats in rows.items()
  ]


def _row(*cells) -> str:
  return f"| {' | '.join(cells)} |"


def _heading(*names) -> list[str]:
  rates = [f"{rate:g}" for rate in measure.RATES]
  return [
    _row(*names, *rates),
    "|---" * len(names) + "|---:" * len(rates) + "|",
  ]


def _label(item: Item) -> str:
  norm = ", pre-norm" if item.norm == "pre" and item.neighbors else ""
  return measure.LABELS[item.model] + STARTS[item.start] + norm


def pilots(records) -> str:
  """Returns the losses that chose learning rates and starts."""
  rows = _by_rate(records, measure.pilots(), lambda item: (_label(item),))
  return "\n".join(_heading("upper layers") + rows)


def free(records) -> str:
  """Returns the losses of the runs in which no head starts on neighbors."""
  rows = _by_rate(
    records,
    measure.free(),
    lambda item: (_label(item), f"{item.updates:,}"),
  )
  return "\n".join(_heading("upper layers", "updates") + rows)


def gap(records, item: Item):
  """Returns nats above softmax attention of the same size and length.

  Returns:
    (value, low, high), or None if one of the two has not been run.
  """
  base = _baseline(item)
  if item not in records or base not in records:
    return None
  sums = (records[one]["documents"] for one in (item, base))
  return documents.interval(*sums)


def _baseline(item: Item) -> Item:
  return measure.chosen(
    "softmax",
    updates=item.updates,
    windows=item.windows,
    norm=item.norm,
    layers=item.layers,
    width=item.width,
    seed=item.seed,
  )


def _number(found) -> str:
  return "" if found is None else "{:.3f} ({:.3f} to {:.3f})".format(*found)


def _theirs(model: str) -> str:
  """Returns the paper's gap at n = 512 for the same k / n."""
  # A point of panel a stands for the paper's with the same k / n.
  k = panels.N // measure.PARTS[model]
  _, *points = panels.PANELS["a"].points
  point = next(one for one in points if f"k={k}" in one.argument)
  return "{:.3f} ± {:.3f}".format(*paper.final_gap("a", point))


def _needed(records, item: Item) -> float | None:
  """Returns the updates that softmax attention needs for the same loss.

  Between the ends of its own runs, linear in the logarithm of updates; None
  outside of them.
  """
  bases = [
    _baseline(dataclasses.replace(item, updates=updates))
    for updates in measure.LENGTHS
  ]
  ends = [(b.updates, records[b]["nats"]) for b in bases if b in records]
  if item not in records or len(ends) < 2:
    return None
  updates, nats = np.transpose(ends)
  loss = records[item]["nats"]
  if not nats.min() <= loss <= nats.max():
    return None
  return float(np.exp(np.interp(-loss, -nats, np.log(updates))))


def gaps(records) -> str:
  """Returns the gaps of all runs with the chosen rates."""
  lines = [
    "| model | start of E and F | seed | updates | million tokens | nats "
    "| above softmax attention "
    "| softmax attention's updates for the same loss |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
  ]
  wanted = [
    measure.chosen(model, updates=updates, seed=seed)
    for seed in measure.SEEDS
    for model in measure.PARTS
    for updates in measure.LENGTHS
  ]
  wanted += [measure.authors(updates) for updates in measure.LENGTHS]
  for item in dict.fromkeys(wanted):
    if item not in records:
      continue
    plain = item.model == "softmax"
    needed = None if plain else _needed(records, item)
    lines.append(
      f"| {measure.LABELS[item.model]} | {STARTS[item.start].strip(', ')} "
      f"| {item.seed} | {item.updates:,} | {item.updates * TOKENS / 1e6:.1f} "
      f"| {records[item]['nats']:.3f} "
      f"| {'' if plain else _number(gap(records, item))} "
      f"| {f'{needed:,.0f}' if needed else ''} |"
    )
  return "\n".join(lines)


def slope(records, model: str):
  """Returns the exponent of the gap in updates, and its 95% interval.

  The least-squares slope of log(gap) over log(updates), of the first seed, in
  samples of documents; None if a run is missing.
  """
  items = [measure.chosen(model, updates=u) for u in measure.LENGTHS]
  if any(gap(records, item) is None for item in items):
    return None
  both = [
    [np.asarray(records[one]["documents"]) for one in (item, _baseline(item))]
    for item in items
  ]
  drawn = documents.resampled([own[:, 0] - base[:, 0] for own, base in both],
                              both[0][0][:, 1])  # fmt: skip
  centered = np.log(measure.LENGTHS) - np.mean(np.log(measure.LENGTHS))
  if drawn.min() <= 0:  # a gap that may be none has no logarithm
    return None
  slopes = np.log(drawn) @ centered / (centered @ centered)
  return tuple(np.quantile(slopes, [0.5, 0.025, 0.975]))


def against(records) -> str:
  """Returns the gaps after the longest runs beside the paper's."""
  lines = [
    "| upper layers, k | gap after "
    + " | gap after ".join(f"{u:,} updates" for u in measure.LENGTHS)
    + " | exponent in updates | the paper's after 250,000 updates |",
    "|---|" + "---:|" * (len(measure.LENGTHS) + 2),
  ]
  for model, parts in measure.PARTS.items():
    if model == "softmax":
      continue
    cells = [
      _number(gap(records, measure.chosen(model, updates=updates)))
      for updates in measure.LENGTHS
    ]
    if any(cells):
      found = slope(records, model)
      exponent = "{:.2f} ({:.2f} to {:.2f})".format(*found) if found else ""
      lines.append(
        f"| {model if parts else measure.LABELS[model]} "
        f"| {' | '.join(cells)} | {exponent} "
        f"| {_theirs(model) if parts else ''} |"
      )
  return "\n".join(lines)


def sizes(records) -> str:
  """Returns the gap at n/4 by depth and width."""
  lines = [
    "| layers | width | norm | parameters, softmax attention "
    "| nats, softmax attention | k = n/4 above it |",
    "|---:|---:|---|---:|---:|---:|",
  ]
  shapes = [(4, 128, "post"), (4, measure.WIDER, "post")]
  shapes += [(depth, 128, "pre") for depth in (4, *measure.DEPTHS)]
  for layers, width, norm in shapes:
    item = measure.chosen("n/4", layers=layers, width=width, norm=norm)
    base = _baseline(item)
    if base in records:
      lines.append(
        f"| {layers} | {width} | {norm} | {records[base]['parameters']:,} "
        f"| {records[base]['nats']:.3f} | {_number(gap(records, item))} |"
      )
  return "\n".join(lines)


def environment(records) -> str:
  """Describes the runs and the hardware."""
  found = list(records.values())
  if not found:
    return "Not run yet."
  targets = {sum(n for _, n in one["documents"]) for one in found}
  return (
    f"{len(found)} runs, {sum(r['run_seconds'] for r in found) / 3600:.1f} "
    f"hours of updates; evaluated on "
    f"{' or '.join(f'{n:,}' for n in sorted(targets))} masked subwords of "
    f"{len(found[0]['documents'])} documents. On "
    f"{page_lib.machines(found, cpu=True)}."
  )


def parts(records) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {
    "pilots": pilots(records),
    "free": free(records),
    "on": environment(records),
  }
  made |= {"against": against(records), "gaps": gaps(records)}
  made["sizes"] = sizes(records)
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page."""
  records = grid.records(measure.RESULTS, Item)
  page_lib.write(PAGE, parts(records))


if __name__ == "__main__":
  main()

"""Renders losses by position, costs and passkeys into their page.

  .venv/bin/python -m experiments.causal.render

Writes experiments/causal/README.md between its markers, and the figures of
results/. A test renders again and compares.
"""

import pathlib

import numpy as np
from matplotlib import figure

from experiments import documents, grid, runs
from experiments import page as page_lib
from experiments.causal import cost, measure, passkey
from experiments.causal.measure import Item

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/causal/render.py: {} -->"
FIGURE = measure.RESULTS.with_name("causal.png")
BASE, NEAR = "softmax", "local"


def settings(records) -> list[tuple[str, int]]:
  """Returns the (tokens, n) that have runs of two models or more."""
  found = {}
  for item in records:
    found.setdefault((item.tokens, item.n), set()).add(item.model)
  return [where for where, models in found.items() if len(models) > 1]


def pooled(records, tokens: str, n: int, model: str):
  """Returns sums [blocks, ranges, 2], the mean over seeds, and the seeds."""
  found = [
    records[Item(tokens, n, model, seed)]
    for seed in measure.SEEDS
    if Item(tokens, n, model, seed) in records
  ]
  if not found:
    return None, 0
  losses = np.mean([record["losses"] for record in found], axis=0)
  return np.stack([losses, found[0]["targets"]], axis=-1), len(found)


def _difference(sums, other) -> str:
  value, low, high = documents.interval(sums, other)
  return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def losses(records) -> str:
  """Returns the losses, and differences from softmax attention's."""
  lines = [
    "| tokens | n | attention | seeds | nats | over softmax attention | "
    "perplexity, relative | over windows alone | FLOPs |",
    "|---|---:|---|---:|---:|---:|---:|---:|---:|",
  ]
  for tokens, n in settings(records):
    base, _ = pooled(records, tokens, n, BASE)
    near, _ = pooled(records, tokens, n, NEAR)
    first = records.get(Item(tokens, n, BASE))
    for model, (label, *_) in measure.MODELS.items():
      sums, seeds = pooled(records, tokens, n, model)
      if not seeds:
        continue
      record = records[Item(tokens, n, model)]
      nats = documents.nats(sums.sum(1))
      cells = [runs.NAMES[tokens], f"{n:,}", label, str(seeds), f"{nats:.3f}"]
      if base is None or model == BASE:
        cells += ["", ""]
      else:
        other = documents.nats(base.sum(1))
        cells += [
          _difference(sums.sum(1), base.sum(1)),
          f"{100 * (np.exp(nats - other) - 1):+.1f}%",
        ]
      if near is None or model == NEAR:
        cells.append("")
      else:
        cells.append(_difference(sums.sum(1), near.sum(1)))
      share = record["update_flops"] / first["update_flops"] if first else None
      cells.append(f"{100 * share:.0f}%" if share else "")
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def positions(records) -> str:
  """Returns what is better than windows alone, by range of positions."""
  blocks = []
  for tokens, n in settings(records):
    base, seeds = pooled(records, tokens, n, NEAR)
    if not seeds:
      continue
    ends = measure.edges(n)
    starts = [0, *ends[:-1]]
    spans = [f"{a + 1:,} to {b:,}" for a, b in zip(starts, ends, strict=True)]
    blocks += [
      f"| {runs.NAMES[tokens]}, n = {n:,} | " + " | ".join(spans) + " |",
      "|---|" + "---:|" * len(spans),
    ]
    for model, (label, *_) in measure.MODELS.items():
      sums, found = pooled(records, tokens, n, model)
      if not found or model == NEAR:
        continue
      cells = [_difference(sums[:, i], base[:, i]) for i in range(len(ends))]
      blocks.append(f"| {label} | {' | '.join(cells)} |")
    blocks.append("")
  return "\n".join(blocks).strip() or "Not run yet."


def costs(records) -> str:
  """Returns the time and the cache of a token, and slopes of a layer."""
  lines = [
    "| attention | "
    + " | ".join(f"n = {n:,}" for n in cost.LENGTHS["token"])
    + " |",
    "|---|" + "---:|" * len(cost.LENGTHS["token"]),
  ]
  for model, (label, *_) in measure.MODELS.items():
    cells = []
    for n in cost.LENGTHS["token"]:
      record = records.get(cost.Item("token", n))
      if not record or model not in record["seconds"]:
        cells.append("")
        continue
      ms = 1e3 * np.array(record["seconds"][model])
      low, middle, high = np.quantile(ms, [0.25, 0.5, 0.75])
      size = record["bytes"][model] / 1e6
      cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f}) ms, {size:.1f} MB")
    lines.append(f"| {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def slopes(records) -> str:
  """Returns the seconds of a layer, and the slope of time and FLOPs in n."""
  lengths = cost.LENGTHS["layer"]
  lines = [
    "| attention | "
    + " | ".join(f"n = {n:,}" for n in lengths)
    + " | slope of time | of FLOPs |",
    "|---|" + "---:|" * (len(lengths) + 2),
  ]
  for model, (label, *_) in measure.MODELS.items():
    times, flops, cells = {}, {}, []
    for n in lengths:
      record = records.get(cost.Item("layer", n))
      if record and model in record["seconds"]:
        times[n] = float(np.median(record["seconds"][model]))
        flops[n] = record["flops"][model]
      cells.append(f"{1e3 * times[n]:,.0f} ms" if n in times else "")
    known = [n for n in times if n >= 4_096]
    if len(known) < 2:
      continue
    for values in (times, flops):
      ratio = values[known[-1]] / values[known[0]]
      cells.append(f"{np.log(ratio) / np.log(known[-1] / known[0]):.2f}")
    lines.append(f"| {label} | {' | '.join(cells)} |")
  return "\n".join(lines)


def passkeys(records) -> str:
  """Returns the share of digits that are right, by length and distance."""
  lines = [
    "| attention | seed | n | first quarter | second | third | last |",
    "|---|---:|---:|---:|---:|---:|---:|",
  ]
  for model, (label, _) in passkey.MODELS.items():
    for seed in passkey.SEEDS:
      record = records.get(passkey.Item(model, seed))
      for n, shares in (record["asked"] if record else {}).items():
        cells = ["" if s is None else f"{100 * s:.0f}" for s in shares]
        lines.append(f"| {label} | {seed} | {int(n):,} | {' | '.join(cells)} |")
  return "\n".join(lines)


def draw(records, path):
  """Draws losses over windows alone by position, a panel for each setting."""
  where = [w for w in settings(records) if pooled(records, *w, NEAR)[1]]
  if not where:
    return
  canvas = figure.Figure(figsize=(4.5 * len(where), 3.4), layout="constrained")
  panels = canvas.subplots(1, len(where), squeeze=False)[0]
  for panel, (tokens, n) in zip(panels, where, strict=True):
    base, _ = pooled(records, tokens, n, NEAR)
    for model, (label, *_) in measure.MODELS.items():
      sums, found = pooled(records, tokens, n, model)
      if not found or model in (NEAR, "linear"):
        continue
      every = [
        documents.interval(sums[:, i], base[:, i]) for i in range(sums.shape[1])
      ]
      middle, low, high = np.transpose(every)
      ends = measure.edges(n)
      panel.plot(ends, middle, marker="o", label=label)
      panel.fill_between(ends, low, high, alpha=0.15)
    panel.axhline(0, color="gray", linewidth=0.8)
    panel.set_xscale("log", base=2)
    panel.set_xticks(measure.edges(n), measure.edges(n))
    panel.set_title(f"{runs.NAMES[tokens]}, n = {n:,}")
    panel.set_xlabel("tokens before, up to")
  panels[0].set_ylabel("nats over windows alone")
  panels[0].legend(frameon=False, fontsize=7)
  path.parent.mkdir(parents=True, exist_ok=True)
  canvas.savefig(path, dpi=100)


def parts() -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  records = grid.records(measure.RESULTS, Item)
  timed = grid.records(cost.RESULTS, cost.Item)
  keys = grid.records(passkey.RESULTS, passkey.Item)
  machines = page_lib.machines(timed.values(), cpu=True) if timed else ""
  made = {
    "losses": losses(records),
    "positions": positions(records),
    "costs": costs(timed) if timed else "Not run yet.",
    "slopes": slopes(timed) if timed else "Not run yet.",
    "timed on": f"Medians and quartiles of {cost.ROUNDS} calls in turns, on "
    f"{machines}." if timed else "",
    "passkeys": passkeys(keys) if keys else "Not run yet.",
    "on": page_lib.runs([*records.values(), *keys.values()]),
  }  # fmt: skip
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page and the figure."""
  page_lib.write(PAGE, parts())
  draw(grid.records(measure.RESULTS, Item), FIGURE)


if __name__ == "__main__":
  main()

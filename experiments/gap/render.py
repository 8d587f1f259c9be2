"""Renders the gaps into their page.

  .venv/bin/python -m experiments.gap.render

Writes experiments/gap/README.md between its markers. A test renders again and
compares.
"""

import pathlib

from experiments import grid
from experiments import page as page_lib
from experiments.gap import measure
from experiments.gap.measure import Item

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/gap/render.py: {} -->"
STARTS = {
  "": "",
  "pool": ", window means",
  "authors": ", N(0, 0.02²)",
}


def pilots(records) -> str:
  """Returns the losses that chose learning rates and starts."""
  lines = [
    "| lower layers | upper layers | "
    + " | ".join(f"{rate:g}" for rate in measure.RATES)
    + " |",
    "|---|---|" + "---:|" * len(measure.RATES),
  ]
  there = {item: records[item] for item in measure.pilots() if item in records}
  kinds = dict.fromkeys((i.windows, i.model, i.start) for i in there)
  for windows, model, start in kinds:
    nats = {
      item.rate: f"{record['nats']:.3f}"
      for item, record in there.items()
      if (item.windows, item.model, item.start) == (windows, model, start)
    }
    cells = " | ".join(nats.get(rate, "") for rate in measure.RATES)
    lower = "windows" if windows else "as the upper"
    label = measure.LABELS[model] + STARTS[start]
    lines.append(f"| {lower} | {label} | {cells} |")
  return "\n".join(lines)


def environment(records) -> str:
  """Describes the runs and the hardware."""
  found = list(records.values())
  if not found:
    return "Not run yet."
  targets = sum(n for _, n in found[0]["documents"])
  return (
    f"{len(found)} runs, {sum(r['run_seconds'] for r in found) / 3600:.1f} "
    f"hours of updates; evaluated on {targets:,} masked subwords of "
    f"{len(found[0]['documents'])} documents. On "
    f"{page_lib.machines(found, cpu=True)}."
  )


def parts(records) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  made = {"pilots": pilots(records), "on": environment(records)}
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page."""
  records = grid.records(measure.RESULTS, Item)
  PAGE.write_text(page_lib.renew(PAGE.read_text(), parts(records)))
  print(f"rendered {PAGE.relative_to(page_lib.ROOT)}")


if __name__ == "__main__":
  main()

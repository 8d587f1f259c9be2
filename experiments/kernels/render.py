"""Renders what compiles, and the bytes it moves, into their page.

  .venv/bin/python -m experiments.kernels.render

Writes experiments/kernels/README.md between its markers. A test renders again
and compares.
"""

import pathlib

from experiments import grid
from experiments import page as page_lib
from experiments.kernels import measure
from experiments.kernels.measure import Item

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/kernels/render.py: {} -->"
NAMES = {
  "sublayer": "one kernel",
  "slots": "attention as a kernel",
  "flash": "`flash`, by XLA",
  "xla": "`xla`",
  "projection": "E X and F X as a kernel",
  "einsum": "by XLA",
}


def traffic(records, layers) -> str:
  """Returns bytes over the floor, by length, slots and passes."""
  lines = [
    "| n | k | passes | floor, MB | "
    + " | ".join(NAMES[name] for name in layers)
    + " |",
    "|---:|---:|---|---:|" + "---:|" * len(layers),
  ]
  for item in measure.items():
    if item.group != "traffic" or item.layer != layers[0]:
      continue
    cells = [f"{item.n:,}", str(item.k), item.passes]
    cells.append(f"{measure.floor(item) / 1e6:.0f}")
    for layer in layers:
      record = records.get(Item(**vars(item) | {"layer": layer}))
      cells.append(f"{record['bytes'] / record['floor']:.2f}" if record else "")
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def compiles(records) -> str:
  """Returns rows of a block by chip, or why there are none."""
  if not any(item.group == "compile" for item in records):
    return "Not run yet; tests compile a layer of k = 256 for each chip."
  lines = [
    "| kernel | D | dtype | k | "
    + " | ".join(chip.split(":")[0] for chip in measure.CHIPS)
    + " |",
    "|---|---:|---|---:|" + "---:|" * len(measure.CHIPS),
  ]
  for item in measure.items():
    if item.group != "compile" or item.chip != measure.CHIPS[0]:
      continue
    cells = [NAMES[item.layer], str(item.dim), item.dtype, f"{item.k:,}"]
    for chip in measure.CHIPS:
      record = records.get(Item(**vars(item) | {"chip": chip}))
      if record is None:
        cells.append("")
      elif record["compiled"]:
        cells.append(str(record["rows"]))
      else:
        cells.append("no room" if record["rows"] is None else "fails")
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def parts() -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  records = grid.records(measure.RESULTS, Item)
  seconds = [r["compile_seconds"] for r in records.values() if r["compiled"]]
  on = "Not run yet."
  if records:
    on = (
      f"{len(records)} programs, {sum(seconds) / 60:.0f} minutes of compiling, "
      f"on {page_lib.machines(records.values(), cpu=True)}."
    )
  made = {
    "traffic": traffic(records, measure.LAYERS),
    "projections": traffic(records, measure.PROJECTIONS),
    "compiles": compiles(records),
    "on": on,
  }
  return {MARK.format(name): text for name, text in made.items()}


def main():
  """Renders the page."""
  page_lib.write(PAGE, parts())


if __name__ == "__main__":
  main()

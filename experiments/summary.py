"""Renders the table of results into the main README.

  .venv/bin/python -m experiments.summary

Writes README.md between its markers, from the files in experiments/*/results.
A test renders again and compares.
"""

import json
import pathlib

from experiments import grid
from experiments import page as page_lib
from experiments.perplexity import paper
from experiments.perplexity import render as curves
from experiments.smoke import render as smoke
from experiments.speed import accelerator, cells, measure
from experiments.speed import render as speed
from linformer_jax.run import report

README = page_lib.ROOT / "README.md"
MARK = "<!-- experiments/summary.py: {} -->"
K = 128
# The sequence lengths n at which speedups over each baseline are reported.
BASELINES = {"softmax": (512, 4_096, 65_536), "softmax_flash": (4_096, 65_536)}
SPEEDUPS = (
  "[speedup](experiments/speed/README.md) of the forward pass over softmax "
  "attention",
  "… over memory-efficient softmax attention",
)
# Files with compiler reports for hardware on which nothing was run.
COMPILED = ("speed/results/memory.jsonl", "topologies/results/compiled.jsonl")


def default_job(result: dict) -> list[tuple[str, ...]]:
  """Returns the row of the default job: name, setting, measured, paper."""
  return [
    (
      "[default job](experiments/smoke/README.md)",
      "`./launch.sh`",
      f"validation perplexity **{result['perplexity']:.2f}** after "
      f"{report.clock(result['wall_seconds'])} minutes (unigram model: "
      f"{result['unigram_perplexity']:.2f})",
      "",
    )
  ]


def speedups(times: speed.Times) -> list[tuple[str, ...]]:
  """Returns the rows of the forward pass against softmax attention."""
  theirs = cells.paper_table("table3_time")
  rows = []
  for baseline, lengths in BASELINES.items():
    for n in lengths:
      ours = ("stack", "linformer_layerwise", n, K)
      other = ("stack", baseline, n)
      ratio = times.seconds(*other) / times.seconds(*ours)
      marks = "".join(sorted(set(times.mark(*other) + times.mark(*ours))))
      printed = f"{theirs[n, K]:.3g}×" if baseline == "softmax" else ""
      setting = f"n = {n:,}, k = {K}"
      rows.append(("", setting, f"**{ratio:.3g}×**{marks}", printed))
  for row, name in zip((0, len(BASELINES["softmax"])), SPEEDUPS, strict=True):
    rows[row] = (name, *rows[row][1:])
  return rows


def on_a_gpu() -> list[tuple[str, ...]]:
  """Returns the rows of the forward pass on a GPU, in bfloat16."""
  theirs = cells.paper_table("table3_time")
  rows = []
  for line in grid.lines(accelerator.RESULTS):
    if line["what"] != "forward" or line["n"] not in (4_096, 65_536):
      continue
    ratios = [
      accelerator.speedup(line, K, kernel) for kernel in accelerator.KERNELS
    ]
    mark = "†" if line["rows"]["softmax xla"]["query_block"] else ""
    setting = f"n = {line['n']:,}, k = {K}"
    measured = f"**{ratios[0]:.3g}×**{mark}; both fused **{ratios[1]:.3g}×**"
    rows.append(("", setting, measured, f"{theirs[line['n'], K]:.3g}×"))
  name = f"… on an {line['device'].removeprefix('NVIDIA ')}, bfloat16"
  rows[0] = (f"{name}, over softmax attention", *rows[0][1:])
  return rows


def gaps(found: curves.Curves) -> list[tuple[str, ...]]:
  """Returns the rows of perplexity relative to softmax attention."""
  rows = []
  name = (
    "[perplexity](experiments/perplexity/README.md) relative to softmax "
    "attention"
  )
  for point in found.panel.points[1:]:
    sizes = dict(pair.split("=") for pair in point.argument.split(","))
    setting = f"k = n/{int(sizes['n']) // int(sizes['k'])}"
    ends = [curve[-1][1] for curve in found.ratios(point)]
    ours = sum(ends) / len(ends) - 1
    theirs = paper.final_ratio(found.name, point) - 1
    rows.append((name, setting, f"**{ours:+.1%}**", f"{theirs:+.1%}"))
    name = ""
  return rows


def table() -> str:
  """Returns the table of results."""
  rows = [
    *default_job(json.loads(smoke.RESULT.read_text())),
    *speedups(speed.Times(measure.records())),
    *on_a_gpu(),
    *gaps(curves.Curves("a")),
  ]
  lines = [f"| {' | '.join(row)} |" for row in rows]
  head = "| result | setting | measured here | paper |"
  return "\n".join([head, "|---|---|---|---:|", *lines])


def hardware(results: pathlib.Path = page_lib.ROOT / "experiments") -> str:
  """Returns the devices on which the committed results were run."""
  ran, compiled = set(), set()
  for path in sorted(results.glob("*/results/*.json*")):
    name = path.relative_to(results).as_posix()
    text = path.read_text()
    lines = [text] if path.suffix == ".json" else text.splitlines()
    for record in map(json.loads, lines):
      if "device" not in record:
        continue
      if name in COMPILED:
        compiled.add(record["device"])
      else:
        ran.add(f"{record['device']} ({record['host']})")
  return (
    f"* Run: {'; '.join(sorted(ran))}.\n"
    f"* Compiled only, not run: {'; '.join(sorted(compiled))}."
  )


def parts() -> dict[str, str]:
  """Returns the rendered parts of the README, by marker."""
  found = {"results": table(), "hardware": hardware()}
  return {MARK.format(name): text for name, text in found.items()}


def main():
  """Renders the README."""
  README.write_text(page_lib.renew(README.read_text(), parts()))
  print(f"rendered {README.relative_to(page_lib.ROOT)}")


if __name__ == "__main__":
  main()

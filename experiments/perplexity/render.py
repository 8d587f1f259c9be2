"""Renders the curves: a page, one figure per panel, one table.

  .venv/bin/python -m experiments.perplexity.render

A test renders again and compares.
"""

import csv
import io
import pathlib
import shlex

from experiments import page as page_lib
from experiments.perplexity import (
  curves,
  figures,
  full_scale,
  onchip,
  panels,
  paper,
  sweep,
)
from linformer_jax import flops
from linformer_jax.run import report

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
TABLE = curves.RESULTS / "curves.csv"
MARK = "<!-- experiments/perplexity/render.py: {} -->"
PENDING = "Not run yet."
CHIPS, CHIP = 16, "TPU v5 lite"  # the slice in the launch lines, v5e:4x4
MFU = 0.4  # assumed


class Curves:
  """The records of one panel, by point."""

  def __init__(self, name: str, results: pathlib.Path = curves.RESULTS):
    self.name = name
    self.panel = panels.PANELS[name]
    there = curves.records(results / f"{name}.jsonl")
    names = {
      f"{point.name}-s{seed}"
      for point in (*self.panel.points, *self.panel.controls)
      for seed in self.panel.seeds
    }
    self.records = {run: there[run] for run in there if run in names}

  def of(self, point) -> dict[int, dict]:
    """Returns the records of a point by seed."""
    found = {
      seed: self.records.get(f"{point.name}-s{seed}")
      for seed in self.panel.seeds
    }
    return {seed: record for seed, record in found.items() if record}

  def control(self, point):
    """Returns softmax attention in a point's size, or None."""
    pairs = zip(self.panel.points, self.panel.controls, strict=False)
    return dict(pairs).get(point)

  def ratios(self, point, to=None) -> list[list[tuple[float, float]]]:
    """Returns perplexity relative to another point's with the same seed.

    Args:
      point: of the panel.
      to: the other one, or None for the first.

    Returns:
      A curve per seed: (tokens, ratio) at each evaluation.
    """
    base = self.of(to or self.panel.points[0])
    found = []
    for seed, record in self.of(point).items():
      if seed in base:
        rows, others = record["evaluations"], base[seed]["evaluations"]
        other = {row[0]: row[-1] for row in others}
        found.append(
          [(r[1], r[-1] / other[r[0]]) for r in rows if r[0] in other]
        )
    return found


def spread(values, text) -> str:
  """Formats the mean of the values and, if there are several, their range."""
  values = list(values)
  if not values:
    return "–"
  mean = text(sum(values) / len(values))
  if len(values) == 1:
    return mean
  return f"{mean} ({text(min(values))} to {text(max(values))})"


def _gap(ratio):
  return f"{ratio - 1:+.1%}"


def _left(record):
  updates = record["plateau_updates"]
  return "not left" if updates is None else f"{updates:,}"


def _row(found: Curves, point) -> dict[str, str]:
  """Returns the results of a point's runs, by column name."""
  of_seed = found.of(point)
  records = list(of_seed.values())
  first = found.panel.points[0]
  theirs = paper.final_ratio(found.name, point)
  row = {
    "model": point.label,
    "seeds": ", ".join(map(str, of_seed)),
    "parameters": "",
    "validation perplexity": "–",
    f"over {first.label}": "",
    "softmax in this size": "",
    "over it": "",
    "the paper's": "" if theirs is None else _gap(theirs),
    "updates to leave the plateau": "",
    "time of updates": "",
    "TFLOP": "",
  }
  if not records:
    return row
  ends = [curve[-1][1] for curve in found.ratios(point) if curve]
  perplexities = [record["perplexity"] for record in records]
  if control := found.control(point):
    other = [record["perplexity"] for record in found.of(control).values()]
    ratios = [curve[-1][1] for curve in found.ratios(point, control) if curve]
    row["softmax in this size"] = spread(other, "{:.2f}".format)
    row["over it"] = spread(ratios, _gap)
  return row | {
    "parameters": f"{records[0]['parameters']:,}",
    "validation perplexity": f"**{spread(perplexities, '{:.2f}'.format)}**",
    f"over {first.label}": "" if point is first else spread(ends, _gap),
    "updates to leave the plateau": ", ".join(map(_left, records)),
    "time of updates": spread(
      [record["busy_seconds"] for record in records], report.clock
    ),
    "TFLOP": f"{records[0]['evaluations'][-1][3] / 1e12:.3g}",
  }


def table(found: Curves) -> str:
  """Returns a table of the results of a panel."""
  rows = [_row(found, point) for point in found.panel.points]
  for column in ("softmax in this size", "over it", "the paper's"):
    if not any(row[column] for row in rows):
      for row in rows:
        del row[column]
  columns = list(rows[0])
  rule = ["---"] + ["---:"] * (len(columns) - 1)
  lines = [columns, rule, *(list(row.values()) for row in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def environment(found: Curves) -> str:
  """Describes the text and the hardware of a panel's runs."""
  records = found.records.values()
  data = {
    f"{r['train_blocks'] * r['config']['data.sequence_length']:,} tokens of "
    f"training text, {r['tokens']:,} read in {r['step']:,} updates; unigram "
    f"perplexity {r['unigram_perplexity']:.2f} of {r['targets']:,.0f} masked "
    f"tokens (n = {r['config']['data.sequence_length']:,})"
    for r in records
  }
  hours = sum(r["wall_seconds"] for r in records) / 3600
  return (
    f"{len(records)} runs, {hours:.1f} hours in all. {'; '.join(sorted(data))}."
    f" On {page_lib.machines(records, 'flax')}."
  )


def section(found: Curves) -> str:
  """Returns the section of the page on a panel."""
  if not found.records:
    return PENDING
  points = {*found.panel.points, *found.panel.controls}
  total = len(points) * len(found.panel.seeds)
  parts = [table(found), environment(found)]
  if len(found.records) < total:
    parts.append(f"{total - len(found.records)} runs are not done yet.")
  image = figures.path(found.name).name
  parts.append(f"![{found.panel.title}](results/{image})")
  return "\n\n".join(parts)


def launch_lines() -> str:
  """Returns the launch lines for runs at the paper's own scale."""
  lines = [
    f"{data}=({shlex.join([*full_scale.COMMON, *words])})"
    for data, words in full_scale.DATA.items()
  ]
  for name, words in full_scale.runs().items():
    lines.append(
      f'./launch.sh tpu train NAME {shlex.join(words)} "${{wiki[@]}}" '
      f"--workdir=gs://BUCKET/figure3/wiki-{name}"
    )
  return "\n".join(f"    {line}" for line in lines)


def full_scale_time() -> str:
  """Estimates the time of each run at the paper's own scale."""
  peak = CHIPS * flops.PEAK_FLOPS[CHIP]
  lines = [
    f"| run | sequences an update | TFLOP an update | hours at the peak "
    f"| hours at {MFU:.0%} of it |",
    "|---|---:|---:|---:|---:|",
  ]
  for name, words in full_scale.runs().items():
    config = sweep.config_of(words)
    needed = curves.update_flops(config)
    hours = needed * config.train.num_steps / peak / 3600
    lines.append(
      f"| {name} | {config.train.batch_size} | {needed / 1e12:.1f} "
      f"| {hours:.1f} | {hours / MFU:.1f} |"
    )
  return "\n".join(lines)


def curves_table(results: pathlib.Path = curves.RESULTS) -> str:
  """Returns all curves of all panels as CSV, one row per evaluation."""
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  rows.writerow(("panel", "model", "n", "seed", *curves.COLUMNS))
  for name in panels.PANELS:
    found = Curves(name, results)
    for point in found.panel.points:
      for seed, record in found.of(point).items():
        length = record["config"]["data.sequence_length"]
        for row in record["evaluations"]:
          rows.writerow((name, point.label, length, seed, *row))
  return text.getvalue()


def sections(results: pathlib.Path = curves.RESULTS) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  parts = {name: section(Curves(name, results)) for name in panels.PANELS}
  parts["onchip"] = onchip.table()
  parts["full scale"] = launch_lines()
  parts["time at full scale"] = full_scale_time()
  return {MARK.format(name): text for name, text in parts.items()}


def main():
  """Renders the page, and the figures and curves of panels with results."""
  page_lib.write(PAGE, sections())
  TABLE.write_text(curves_table())
  for name in panels.PANELS:
    found = Curves(name)
    if found.records:
      figures.draw(found)


if __name__ == "__main__":
  main()

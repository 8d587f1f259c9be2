"""Renders the compiled rows, and estimates from them, into tables.

  .venv/bin/python -m experiments.topologies.render

Writes experiments/topologies/README.md between its markers. A test renders
again and compares.
"""

import dataclasses
import pathlib

from experiments import page as page_lib
from experiments.topologies import long, measure
from linformer_jax import flops, models, step

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
MARK = "<!-- experiments/topologies/render.py: {} -->"

# Published bandwidths of a chip in bytes per second: its memory, and the sum of
# its links to neighbors. Google Cloud's pages on TPU v5e (819 GB/s; 1,600
# Gbit/s) and v5p (2,765 GB/s; 4,800 Gbit/s).
RATES = {
  "TPU v5 lite": (819e9, 1600e9 / 8),
  "TPU v5": (2765e9, 4800e9 / 8),
}


def exchange_seconds(record: dict) -> float:
  """Returns the seconds of all collectives on ideal rings that use all links.

  On p chips, an all-reduce of S bytes sends and receives 2 S (p - 1) / p bytes,
  an all-gather to S bytes and an all-to-all of S bytes half of that, and a
  reduce-scatter to S bytes S (p - 1). p is taken as large, and for a
  reduce-scatter as the largest axis of the mesh.
  """
  _, links = RATES[record["device"]]
  total = 0.0
  for kind, size in record["collectives"].items():
    sent = size
    if kind.startswith("all-reduce"):
      sent = 2 * size
    elif kind.startswith("reduce-scatter"):
      sent = size * (max(record["mesh"].values()) - 1)
    total += sent / links
  return total


def expected(record: dict) -> dict[str, float]:
  """Returns the seconds of an update under each of three limits."""
  memory, _ = RATES[record["device"]]
  peak = flops.PEAK_FLOPS[record["device"]]
  return {
    "products": record["flops_needed"] / peak,
    "memory": (record["bytes_accessed"] or 0) / memory,
    "links": exchange_seconds(record),
  }


def tokens_per_second(record: dict, overlap: bool) -> float:
  """Returns the slice's tokens/s, with communication overlapped or not."""
  limits = expected(record)
  own = max(limits["products"], limits["memory"])
  time = max(own, limits["links"]) if overlap else own + limits["links"]
  return record["batch"] * record["n"] / time


def _gib(size):
  return "more" if size is None else f"{size / 2**30:.2f}"


def _mesh(record):
  return " × ".join(
    f"{axis} {size}" for axis, size in record["mesh"].items() if size > 1
  )


def compiled_table(found: dict, group: str) -> str:
  """Returns a table of memory and FLOPs per chip for the rows of a group."""
  lines = [
    "| slice | model | n | k | mesh | sequences | state GiB | peak GiB | of "
    "| GFLOP needed | GB exchanged |",
    "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
  ]
  for row in measure.rows():
    record = found.get(row)
    if row.group != group or record is None:
      continue
    exchanged = "–"  # The compiler does not print every program for v5p.
    if record["collectives"]:
      exchanged = f"{sum(record['collectives'].values()) / 1e9:,.3f}"
    fits = record["peak"] is not None and record["peak"] <= record["capacity"]
    peak = _gib(record["peak"]) if fits else f"**{_gib(record['peak'])}**"
    lines.append(
      f"| {row.topology} | {row.size} | {row.n:,} | {row.k} | {_mesh(record)} "
      f"| {record['batch']:,} | {_gib(record['state_bytes'])} | {peak} "
      f"| {_gib(record['capacity'])} | {record['flops_needed'] / 1e9:,.0f} "
      f"| {exchanged} |"
    )
  return "\n".join(lines)


def scaling_table(found: dict) -> str:
  """Returns a table of estimated speed on slices of several sizes."""
  lines = [
    "| slice | n | mesh | GFLOP compiled | GB moved | products ms | memory ms "
    "| links ms | tokens/s, links beside the rest | tokens/s, links after it "
    "| MFU |",
    "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
  ]
  for row in measure.rows():
    record = found.get(row)
    if row.group != "chips" or record is None or not record["collectives"]:
      continue
    limits = expected(record)
    most, least = (
      tokens_per_second(record, beside) for beside in (True, False)
    )
    seconds = record["batch"] * row.n / most, record["batch"] * row.n / least
    shares = [limits["products"] / x for x in reversed(seconds)]
    lines.append(
      f"| {row.topology} | {row.n:,} | {_mesh(record)} "
      f"| {record['flops_compiled'] / 1e9:,.0f} "
      f"| {record['bytes_accessed'] / 1e9:,.1f} "
      + "".join(f"| {1e3 * limits[name]:.1f} " for name in limits)
      + f"| {most:,.0f} | {least:,.0f} "
      f"| {shares[0]:.0%} to {shares[1]:.0%} |"
    )
  return "\n".join(lines)


def sums_table(found: dict) -> str:
  """Returns a table of what it costs to sum gradients in float32."""
  lines = [
    "| slice | model | n | gradients of kernels summed in | GB exchanged "
    "| bytes a parameter | links ms | peak GiB |",
    "|---|---|---:|---|---:|---:|---:|---:|",
  ]
  for row in measure.rows():
    if row.group != "float32" or row not in found:
      continue
    default = dataclasses.replace(row, group="chips")
    for dtype, of in (("bfloat16", default), ("float32", row)):
      record = found[of]
      size = sum(record["collectives"].values())
      config = measure.make_config(of, record["devices"])
      params = models.num_parameters(step.abstract_shapes(config).params)
      lines.append(
        f"| {of.topology} | {of.size} | {of.n:,} | {dtype} | {size / 1e9:.3f} "
        f"| {size / params:.2f} | {1e3 * exchange_seconds(record):.1f} "
        f"| {_gib(record['peak'])} |"
      )
  return "\n".join(lines)


def long_table(found: list[dict]) -> str:
  """Returns a table of the updates run on eight CPU devices."""
  lines = [
    "| n | width | k | layers | seconds an update | loss, before and after one "
    "| peak resident GiB |",
    "|---:|---:|---:|---:|---:|---|---:|",
  ]
  for record in sorted(found, key=lambda r: (r["width"], r["n"])):
    line = "| {n:,} | {width} | {k} | {layers} ".format(**record)
    if record.get("out_of_memory"):
      line += f"| out of {record['limit_bytes'] / 1e9:.0f} GB | | |"
    else:
      before, after = record["losses"]
      line += f"| {record['seconds']:.0f} | {before:.3f}, {after:.3f} "
      line += f"| {_gib(record['peak_resident_bytes'])} |"
    lines.append(line)
  return "\n".join([*lines, "", f"Run on {_hosts(found)}."])


def _hosts(found):
  on = "{host}, Python {python}, jax {jax}, flax {flax}, commit {commit}"
  return "; ".join(sorted({on.format(**record) for record in found}))


def sections(found: dict, run: list[dict]) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker.

  Args:
    found: the compiled rows.
    run: the updates that were run.
  """
  parts = {name: compiled_table(found, name) for name in measure.GROUPS}
  parts["scaling"] = scaling_table(found)
  parts["sums"] = sums_table(found)
  parts["on"] = f"{len(found)} rows compiled on {_hosts(found.values())}."
  parts["long"] = long_table(run)
  return {MARK.format(name): text for name, text in parts.items()}


if __name__ == "__main__":
  rendered = sections(measure.records(), long.records())
  PAGE.write_text(page_lib.renew(PAGE.read_text(), rendered))

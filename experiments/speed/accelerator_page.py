"""Tables and the figure of accelerator.py, for the page."""

import statistics

import numpy as np

from experiments import grid
from experiments.speed import accelerator, cells

FIGURE = accelerator.RESULTS.with_name("h200.png")


def table(what: str, kernel: str, found: list[dict] | None = None) -> str:
  """Returns Table 3 there: times faster than softmax attention.

  Args:
    what: the pass.
    kernel: of both, 'xla', as the paper compares, or 'cudnn'.
    found: lines of the results file; None reads it.
  """
  paper = cells.paper_table("table3_time")
  lines = [
    "| n | softmax, ms | " + " | ".join(f"k = {k}" for k in cells.PROJECTED),
    "|---|" + "---:|" * (1 + len(cells.PROJECTED)),
  ]
  lines[0] += " |"
  for line in grid.lines(accelerator.RESULTS) if found is None else found:
    if line["what"] != what:
      continue
    rows, n = line["rows"], line["n"]
    softmax = rows[accelerator.name(0, kernel)]
    spread = np.percentile(softmax["seconds"], [50, 10, 90])
    texts = ["{:.3g} ({:.3g} to {:.3g})".format(*1e3 * spread)]
    if softmax["query_block"]:
      texts[0] += "†"
    for k in cells.PROJECTED:
      if k >= n:
        texts.append("")
        continue
      ours = rows[accelerator.name(k, kernel)]
      ratio = accelerator.speedup(line, k, kernel)
      beside = paper[n, k]
      if kernel != "xla":
        beside = softmax["flops_needed"] / ours["flops_needed"]
      texts.append(f"**{ratio:.3g}** ({beside:.3g})")
    lines.append(f"| {n:,} | " + " | ".join(texts) + " |")
  return "\n".join(lines)


def figure(path=FIGURE):
  """Draws the speedups of the forward pass against n, and the paper's."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  found = [
    line
    for line in grid.lines(accelerator.RESULTS)
    if line["what"] == "forward"
  ]
  paper = cells.paper_table("table3_time")
  panels, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
  colors = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(cells.PROJECTED)))
  for kernel, panel in zip(accelerator.KERNELS, axes, strict=True):
    for k, color in zip(cells.PROJECTED, colors, strict=True):
      lines = [line for line in found if k < line["n"]]
      ns = [line["n"] for line in lines]
      ratios = [accelerator.speedup(line, k, kernel) for line in lines]
      panel.plot(
        ns, ratios, "-o", color=color, markersize=4, label=f"k = {k:,}"
      )
      if kernel == "xla":
        theirs = [paper[n, k] for n in ns]
        panel.plot(ns, theirs, "o", color=color, markersize=5, mfc="none")
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set(xscale="log", yscale="log", xlabel="n, tokens in a sequence")
    panel.set_xscale("log", base=2)
    panel.grid(alpha=0.3)
  axes[0].set_title("scores in memory; hollow: the paper, V100", fontsize=10)
  axes[1].set_title("both with cuDNN's fused kernel", fontsize=10)
  axes[0].legend(fontsize=8, loc="upper left")
  axes[0].set_ylabel("times faster than softmax attention")
  panels.tight_layout()
  panels.savefig(path, dpi=110)
  plt.close(panels)


def environment() -> str:
  """Describes the hardware and versions of the measurements."""
  found = sorted(
    {
      "{device}, {cpu}, Python {python}, jax {jax}, commit {commit}".format(
        **line
      )
      for line in grid.lines(accelerator.RESULTS)
    }
  )
  rate = statistics.median(
    line["product_rate"] for line in grid.lines(accelerator.RESULTS)
  )
  return (
    f"{'; '.join(found)}. A product of two [8192, 8192] matrices ran at "
    f"{rate / 1e12:.0f} TFLOP/s."
  )

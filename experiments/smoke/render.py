"""Renders the result of the default job into its page.

  ./launch.sh && cp runs/smoke/{result.json,metrics.jsonl,curve.png} \
    experiments/smoke/results/
  .venv/bin/python -m experiments.smoke.render
"""

import json
import pathlib

from experiments import page as page_lib

HERE = pathlib.Path(__file__).parent
RESULT = HERE / "results" / "result.json"
PAGE = HERE / "README.md"
BEGIN = "<!-- experiments/smoke/render.py -->"


def table(result: dict) -> str:
  """Returns a Markdown table of a result.json."""
  share = result["perplexity"] / result["unigram_perplexity"]
  minutes, seconds = divmod(round(result["busy_seconds"]), 60)
  total_minutes, total_seconds = divmod(round(result["wall_seconds"]), 60)
  rows = {
    "validation perplexity": f"**{result['perplexity']:.2f}**, {share:.1%} of "
    f"the unigram perplexity {result['unigram_perplexity']:.2f}, over the same "
    f"{result['targets']:,.0f} masked tokens of held-out documents",
    "accuracy": f"{result['accuracy']:.1%} of masked tokens",
    "training": f"{result['step']:,} updates, {result['tokens']:,} tokens, "
    f"{result['parameters']:,} parameters; {minutes}:{seconds:02} of updates, "
    f"{total_minutes}:{total_seconds:02} with evaluation and saving",
    "speed": f"{result['tokens_per_second']:,.0f} tokens/s, MFU "
    f"{result['mfu']:.0%} of {result['peak_flops'] / 1e9:,.0f} GFLOP/s "
    f"({result['peak_source']})",
    "on": f"{result['host']}, Python {result['python']}, jax {result['jax']}, "
    f"flax {result['flax']}, commit {result['commit']}",
  }
  lines = [f"| {name} | {text} |" for name, text in rows.items()]
  return "\n".join(["| `./launch.sh` | |", "|---|---|", *lines])


def render(page: str, result: dict) -> str:
  """Returns the page with the table between its markers replaced."""
  return page_lib.renew(page, {BEGIN: table(result)})


if __name__ == "__main__":
  page = PAGE.read_text()
  PAGE.write_text(render(page, json.loads(RESULT.read_text())))

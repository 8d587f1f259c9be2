"""Exports pretrained models of experiments/finetune, each with a model card.

  .venv/bin/python -m experiments checkpoints --text=runs/text

Writes experiments/checkpoints/NAME, in bfloat16, and what the card tells to
results/cards.jsonl. --text is a folder of `python -m experiments.text`; models
that --workdir does not hold are trained, a quarter of an hour each on a core.
"""

import argparse
import json
import pathlib
import shutil
import sys

from experiments import documents, grid, runs
from experiments.finetune import measure
from experiments.finetune.measure import Item
from linformer_jax import exported, hardware, loading, models
from linformer_jax.run import files

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "cards.jsonl"
DTYPE = "bfloat16"
# folder: model of experiments/finetune
NAMES = {
  "softmax-small": "softmax",
  "linformer-small": "half",
  "mixed-small": "mixed",
}


def make(name: str, made: measure.Runs) -> dict:
  """Writes the folder of a model; returns the line of its card."""
  item = Item(measure.PRETRAINING, NAMES[name])
  run = made.run(item)
  runs.train(run)
  whole = loading.load(run.workdir)
  folder = HERE / name
  if folder.exists():
    shutil.rmtree(folder)
  exported.write(whole, folder, DTYPE)
  rounded = loading.load(str(folder))
  corpus = made.corpus(item)
  manifest = files.folder(made.text) / "manifest.json"
  sums = made.sums(item, rounded.variables, rounded.model.config)
  return hardware.environment() | {
    "name": name,
    "model": item.model,
    "step": whole.step,
    "parameters": models.num_parameters(whole.variables["params"]),
    "data_sha256": corpus.record.sha256,
    "sources": json.loads(manifest.read_text())["sources"],
    "documents": [[round(loss, 3), int(n)] for loss, n in sums],
  }


def nats(line: dict) -> tuple[float, float, float]:
  """Returns the loss of a card's line and its 95% interval."""
  return documents.interval(line["documents"])


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--text", required=True, help="of experiments.text")
  parser.add_argument("--workdir", default="runs/finetune")
  given = parser.parse_args(words)
  made = measure.Runs(given.text, "", given.workdir)
  lines = [make(name, made) for name in NAMES]
  RESULTS.unlink(missing_ok=True)
  for line in lines:
    grid.append(RESULTS, line)
    print(f"{line['name']}: {nats(line)[0]:.4f} nats", flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())

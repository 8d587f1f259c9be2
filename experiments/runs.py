"""Grids whose items are checkpoints of training runs on divided text.

An item has `point()`, a `perplexity.panels.Point`, and `tokens` (a key of
`TOKENS`), `n`, `seed` and `step`, the updates of the checkpoint; its run is
trained when the first of its checkpoints is asked for.
"""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
from flax import traverse_util

from experiments import documents, grid
from experiments.perplexity import curves, sweep
from linformer_jax import loading, optimizer, step
from linformer_jax.attention import initializers
from linformer_jax.data import pipeline
from linformer_jax.run import files
from linformer_jax.run import result as result_lib

TOKENS = {
  "bytes": (),
  "subwords": (
    ("model.vocab_size", "4096"),
    ("data.tokenizer_train_megabytes", "20.0"),
  ),
}
NAMES = {"bytes": "bytes", "subwords": "4,096 subwords"}
# Held-out blocks per evaluated one: about 40,000 targets of each.
EVERY = {"bytes": 4, "subwords": 1}


def kept(updates: int) -> dict[str, str]:
  """Returns the flags that keep a checkpoint after so many updates each."""
  return {
    "run.checkpoint_every_steps": str(updates),
    "run.keep_checkpoints": "100",
    "run.eval_every_steps": "0",
  }


def train(run: sweep.Run):
  """Completes a run; exits with its status if it is stopped or fails."""
  if (files.folder(run.workdir) / result_lib.RESULT).exists():
    return
  print(f"training {run.name}", flush=True)
  if status := sweep.launch(run.words):
    sys.exit(status)


@functools.lru_cache(maxsize=1)
def _prepared(fields: str):
  return pipeline.prepare(pipeline.DataConfig(**json.loads(fields)))


class Runs:
  """The runs of a grid, each trained when it is first asked for."""

  def __init__(self, text: str, workdir: str):
    self.text, self.workdir = text, workdir

  def run(self, item) -> sweep.Run:
    """Returns the command line and the folder of an item's run."""
    return sweep.Run(item.point(), item.seed, self.text, self.workdir)

  def corpus(self, item):
    """Returns the tokenized text of a run."""
    return _prepared(json.dumps(self.run(item).config.data.to_dict()))

  def sums(self, item, variables, model=None):
    """Returns the sums of each document of weights of an item's model.

    Args:
      item: of the grid.
      variables: of the model.
      model: its ModelConfig, if it is not that of the run.
    """
    task = step.task_of(self.run(item).config)
    task = dataclasses.replace(task, model=model or task.model)
    corpus = self.corpus(item)
    rows = max(1, 8 * 1_024 // item.n)
    return documents.losses(task, variables, corpus, rows, EVERY[item.tokens])

  def measure(self, item) -> dict:
    """Evaluates a checkpoint, after training if there is none."""
    run = self.run(item)
    train(run)
    found = loading.load(run.workdir, item.step)
    sums = self.sums(item, found.variables)
    result = json.loads(
      (files.folder(run.workdir) / result_lib.RESULT).read_text()
    )
    return {
      "nats": round(documents.nats(sums), 5),
      "parameters": result["parameters"],
      "update_flops": curves.update_flops(run.config),
      "run_seconds": round(result["busy_seconds"], 1),
      "data_sha256": self.corpus(item).record.sha256,
      "moved": moved(found.variables),
      "documents": [[round(loss, 3), int(n)] for loss, n in sums],
    }


def moved(variables) -> dict[str, float]:
  """Returns how far each E and F is from the window means that it began as.

  Args:
    variables: of a model with `projection_init` 'mean_pool' and no noise.

  Returns:
    The Frobenius norm of the difference over that of the start, by path.
  """
  found = {}
  leaves = traverse_util.flatten_dict(variables["params"], sep="/")
  for name, leaf in leaves.items():
    if optimizer.is_projection(name):
      start = initializers.window_mean(0.0)(jax.random.key(0), leaf.shape)
      change = jnp.linalg.norm(leaf - start) / jnp.linalg.norm(start)
      found[name] = round(float(change), 4)
  return found


def work(doc, results, workdir, items, runs: type, tell, words=None) -> int:
  """Runs the command line of a grid of runs on divided text.

  Args:
    doc: help of the command.
    results: default of --results.
    workdir: default of --workdir, the folder of the runs' folders.
    items: all items of the grid.
    runs: (text, workdir) -> an object whose `measure` takes an item.
    tell: line -> text to print.
    words: the flags; by default, those of the process.

  Returns:
    The exit status.
  """
  parser = grid.parser(doc, results)
  parser.add_argument("--text", help="folder of experiments.text", default="")
  parser.add_argument("--workdir", default=workdir)
  given = parser.parse_args(words)
  if not given.list and not given.text:
    parser.error("--text=FOLDER is needed: see python -m experiments.text")
  grid.work(items, given, runs(given.text, given.workdir).measure, tell)
  return 0

"""Trains causal language models, and scores them by position in the context.

  .venv/bin/python -m experiments causal --text=runs/text

Runs of configs/causal.py that differ in their attention alone; --text is made
by experiments.text. An update has 1,024 tokens (2,048 at n = 2,048). Stop it
when you like; the same command resumes. A run takes 4 to 40 minutes on a core;
to use two, start the command twice with different --only, --results and
`taskset -c`, and concatenate the files.
"""

import dataclasses
import itertools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import pretrain_small
from experiments import documents, runs
from experiments.perplexity import curves, panels
from linformer_jax import loading, step
from linformer_jax.data import pipeline
from linformer_jax.run import files
from linformer_jax.run import result as result_lib

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
UPDATES = 1_200
LENGTHS = (512, 2_048)
SEEDS = (0, 1)
BLOCK, SLOTS, WINDOW = 32, 4, 64
LEVELS, KEPT = 3, 2
# name: (label, attention of all layers, part of the argument, flags). A row
# of causal Linformer sees 33 to 64 rows exactly, and the windows' 65.
MODELS = {
  "softmax": ("softmax attention", "softmax", "", {}),
  "slots": (
    f"causal Linformer, {SLOTS} slots of {BLOCK} rows",
    "causal_linformer",
    f",block={BLOCK},k={SLOTS}",
    {},
  ),
  "pyramid": (
    "causal Linformer, 33 slots at most",
    "causal_linformer",
    f",block={BLOCK},k={SLOTS},levels={LEVELS}",
    {"attention.kept_blocks": str(KEPT)},
  ),
  "local": (f"windows of {WINDOW} rows", "local", f",window={WINDOW}", {}),
  "linear": ("linear attention", "linear", "", {}),
}
VOCABULARY = {"bytes": {"model.vocab_size": str(pretrain_small.BYTES)}}
# Held-out blocks per evaluated one: about 130,000 targets of each.
EVERY = {"bytes": 8, "subwords": 2}


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    tokens: a key of `runs.TOKENS`.
    n: sequence length.
    model: a key of `MODELS`.
    seed: of the training.
    updates: of the run.
  """

  tokens: str
  n: int
  model: str
  seed: int = 0
  updates: int = UPDATES

  def point(self) -> panels.Point:
    """Returns the run as a point of the recipe."""
    label, attention, argument, fields = MODELS[self.model]
    flags = VOCABULARY.get(self.tokens, {}) | dict(runs.TOKENS[self.tokens])
    flags |= fields | {"run.eval_every_steps": "0"}
    return panels.Point(
      f"{self.tokens}-n{self.n}-{self.model}-u{self.updates}",
      label,
      f"n={self.n},attention={attention},updates={self.updates}{argument}",
      tuple(flags.items()),
      "configs/causal.py",
    )


def items() -> list[Item]:
  """Returns all runs, those of the first seed and of short inputs first."""
  return [
    Item(tokens, n, model, seed)
    for seed, n, tokens, model in itertools.product(
      SEEDS, LENGTHS, runs.TOKENS, MODELS
    )
  ]


def edges(n: int) -> np.ndarray:
  """Returns where the ranges of positions end: 16, 32, 64, ... n."""
  return 2 ** np.arange(4, int(np.log2(n)) + 1)


def losses(task, variables, corpus, rows: int, every: int) -> np.ndarray:
  """Returns losses of held-out blocks by range of positions.

  Args:
    task: a `tasks.causal_lm.CausalLM`.
    variables: of its module.
    corpus: as returned by `data.pipeline.prepare`.
    rows: blocks per call.
    every: evaluate every such block alone.

  Returns:
    float64 [blocks, ranges, 2]: summed loss in nats, and number of targets. A
    target's position is the number of tokens before it.
  """

  @jax.jit
  def nll(variables, batch):
    logits = task.logits(variables, batch, None).astype(jnp.float32)
    found = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["targets"]
    )
    return found * batch["weights"]

  held = documents.Every(corpus.validation, every)
  held = dataclasses.replace(corpus, validation=held)
  of = np.searchsorted(edges(task.length), np.arange(1, task.length + 1))
  member = np.eye(len(edges(task.length)))[of]  # [N, ranges]
  found = []
  for batch in pipeline.validation_batches(held, task, rows):
    sums = np.asarray(nll(variables, batch), np.float64) @ member
    counts = np.asarray(batch["weights"], np.float64) @ member
    found.append(np.stack([sums, counts], axis=-1))
  found = np.concatenate(found)
  return found[found[..., 1].sum(1) > 0]  # without filler


class Runs(runs.Runs):
  """The runs, scored by position."""

  def measure(self, item: Item) -> dict:
    """Trains a model if it is not there, and scores it."""
    run = self.run(item)
    runs.train(run)
    found = loading.load(run.workdir, "last")
    task = step.task_of(run.config)
    rows = max(1, 4 * 1_024 // item.n)
    corpus = self.corpus(item)
    sums = losses(task, found.variables, corpus, rows, EVERY[item.tokens])
    result = json.loads(
      (files.folder(run.workdir) / result_lib.RESULT).read_text()
    )
    return {
      "nats": round(float(sums[..., 0].sum() / sums[..., 1].sum()), 5),
      "parameters": result["parameters"],
      "update_flops": curves.update_flops(run.config),
      "run_seconds": round(result["busy_seconds"], 1),
      "data_sha256": corpus.record.sha256,
      "edges": edges(item.n).tolist(),
      "losses": np.round(sums[..., 0], 3).tolist(),
      "targets": sums[..., 1].astype(int).tolist(),
    }


def tell(line: dict) -> str:
  """Returns a line of progress."""
  return (
    f"{line['tokens']}, n = {line['n']:,}, {MODELS[line['model']][0]}, seed "
    f"{line['seed']}: {line['nats']:.4f} nats"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return runs.work(__doc__, RESULTS, "runs/causal", items(), Runs, tell, words)


if __name__ == "__main__":
  sys.exit(main())

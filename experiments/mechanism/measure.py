"""Evaluates trained softmax models whose attention is cut, layer by layer.

  .venv/bin/python -m experiments mechanism --text=runs/text

Trains each model of `MODELS` when it is first needed, about an hour on a core,
as `experiments perplexity` does, and keeps its checkpoints in --workdir. Every
item is a checkpoint whose attention is replaced, at evaluation, in one
layer or in all of them, by a band or by the best approximation of some rank;
also where the mass of the attention lies. All items read the same held-out
blocks. Stop it when you like; the same command resumes.
"""

import dataclasses
import functools
import os
import pathlib
import sys

# Matrices are small: more threads for each would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np

from experiments import documents, runs
from experiments.mechanism import cut
from experiments.perplexity import panels, sweep
from experiments.perplexity.panels import Point
from linformer_jax import loading, step
from linformer_jax.data import pipeline
from linformer_jax.tools import spectrum

RESULTS = pathlib.Path(__file__).parent / "results" / "cuts.jsonl"
UPDATES = 10_800
STEPS = (1_200, 3_600, UPDATES)
SEEDS = (0, 1)
N, LAYERS = 128, 4
EVERY = 16  # held-out blocks per evaluated one
BATCH = 16
KEPT = (
  ("run.checkpoint_every_steps", "1200"),
  ("run.keep_checkpoints", "100"),
  ("run.eval_every_steps", "1200"),
)
# Without neighbor heads, a model leaves the plateau in time at this length
# alone: panel q of experiments/perplexity.
SHORT = 32


def _softmax(name: str, label: str, n: int, flags=()) -> Point:
  argument = f"n={n},attention=softmax,updates={UPDATES}"
  return Point(name, label, argument, (*flags, *KEPT))


MODELS = {
  "bytes": _softmax("bytes", "bytes", N),
  "subwords": _softmax(
    "subwords", "4,096 subwords", N, runs.TOKENS["subwords"]
  ),
  "free": _softmax(
    "free",
    f"bytes, n = {SHORT}, without neighbor heads",
    SHORT,
    panels.FREE,
  ),
}
ALL_LAYERS = -1
BANDS = {ALL_LAYERS: (1, 2, 4, 8, 16, 32), 0: (0, 1, 2, 8)}
RANKS = {ALL_LAYERS: (8, 16, 32, 64), 0: (1, 8, 32, 64)}


@dataclasses.dataclass(frozen=True)
class Item:
  """One evaluation.

  Attributes:
    model: a key of `MODELS`.
    seed: of its training.
    step: updates that it was trained for.
    kind: 'none', 'band' or 'rank'.
    layer: the layer that is cut, or `ALL_LAYERS`.
    size: rows on either side, or the rank; 0 for 'none'.
  """

  model: str
  seed: int
  step: int
  kind: str = "none"
  layer: int = ALL_LAYERS
  size: int = 0

  def attention(self) -> tuple:
    """Returns the attention of each layer."""
    change = {} if self.kind == "none" else {self.kind: self.size}
    which = None if self.layer == ALL_LAYERS else self.layer
    return cut.layers(LAYERS, which, cut.Cut(**change))


def items() -> list[Item]:
  """Returns all evaluations, those of the first seed first."""
  found = []
  for seed in SEEDS:
    for model in MODELS:
      for updates in STEPS:
        one = functools.partial(Item, model, seed, updates)
        found.append(one())
        longest = SHORT if model == "free" else N
        for kind, sizes in (("band", BANDS), ("rank", RANKS)):
          for layer in (ALL_LAYERS, *range(LAYERS)):
            for size in sizes.get(layer, sizes[0]):
              if size < longest:
                found.append(one(kind, layer, size))
  return found


def mass(distances: tuple[int, ...], matrices) -> jax.Array:
  """Returns the share of attention at most so far away: [distances, H]."""
  rows = jnp.arange(matrices.shape[-1])
  apart = jnp.abs(rows[:, None] - rows)
  return jnp.stack(
    [
      jnp.where(apart <= distance, matrices, 0).sum(-1).mean((0, 2))
      for distance in distances
    ]
  )


class Runs:
  """The trained models, each checkpoint loaded when it is first asked for."""

  def __init__(self, text: str, workdir: str):
    self._text, self._workdir = text, workdir

  def _run(self, model: str, seed: int = 0) -> sweep.Run:
    return sweep.Run(MODELS[model], seed, self._text, self._workdir)

  @functools.lru_cache(maxsize=1)  # noqa: B019
  def corpus(self, model: str):
    """Returns the tokenized text of a model."""
    fields = self._run(model).config.data.to_dict()
    return pipeline.prepare(pipeline.DataConfig(**fields))

  @functools.lru_cache(maxsize=1)  # noqa: B019
  def loaded(self, model: str, seed: int, updates: int) -> loading.Run:
    """Returns a checkpoint, after training if there is none."""
    run = self._run(model, seed)
    runs.train(run)
    return loading.load(run.workdir, updates)

  def measure(self, item: Item) -> dict:
    """Evaluates an item: loss, and the sums of each document."""
    run = self.loaded(item.model, item.seed, item.step)
    corpus = self.corpus(item.model)
    task = step.task_of(run.config)
    model = dataclasses.replace(task.model, attention=item.attention())
    sums = documents.losses(
      dataclasses.replace(task, model=model),
      run.variables,
      corpus,
      BATCH,
      EVERY,
    )
    found = {
      "nats": round(documents.nats(sums), 5),
      "data_sha256": corpus.record.sha256,
      "documents": [[round(loss, 3), int(n)] for loss, n in sums],
    }
    return found if item.kind != "none" else found | self._looks(run, corpus)

  def _looks(self, run, corpus) -> dict:
    """Returns the mass by distance, and the spectrum at n/4, of each head."""
    model = step.model_config(run.config)
    tokens = np.stack(
      [record["tokens"] for record in documents.Every(corpus.validation, 256)]
    )[:32]
    encoder = {
      name: tree["encoder"]
      for name, tree in run.variables.items()
      if "encoder" in tree
    }
    found = spectrum.attention(model, encoder, tokens)
    distances = (0, 1, 2, 4, 8, 16, 32, 64)
    near = [mass(distances, matrices) for matrices in found]
    held = [
      spectrum.cumulative(matrices)[..., model.max_length // 4 - 1].mean(0)
      for matrices in found
    ]
    return {
      "distances": distances,
      "mass": np.round(np.stack(near), 4).tolist(),
      "quarter": np.round(np.stack(held), 4).tolist(),
    }


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  return runs.work(
    __doc__, RESULTS, "runs/mechanism", items(), Runs, tell, words
  )


def tell(line: dict) -> str:
  """Returns a line of progress."""
  where = "all layers" if line["layer"] < 0 else f"layer {line['layer']}"
  what = f"{line['kind']} {line['size']} in {where}"
  return (
    f"{line['model']}, seed {line['seed']}, {line['step']:,} updates: "
    f"{what}: {line['nats']:.4f} nats"
  )


if __name__ == "__main__":
  sys.exit(main())

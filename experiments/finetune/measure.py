"""Pretrains small models on equal budgets and fine-tunes them (Table 2).

  .venv/bin/pip install scikit-learn    # for a floor
  .venv/bin/python -m experiments finetune --text=runs/text --data=FOLDER

--text is a folder of `python -m experiments.text`. --data has a folder for each
task, with train.jsonl.xz and test.jsonl.xz; see experiments/finetune/data.py.
Every item is a fine-tuned model, labeled text by text; the model is pretrained
when the first of its items is measured. `pilots` chose the learning rate, on
validation texts. Stop it when you like; the same command resumes. Pretraining a
model takes a quarter of an hour on a core, fine-tuning it 2 to 6 minutes; to
use two, start the command twice with different --only, --results and `taskset
-c`, and concatenate the files.
"""

import dataclasses
import itertools
import pathlib
import sys

import jax
import numpy as np

from experiments import grid, runs
from experiments.finetune import data, floors
from experiments.perplexity import panels, sweep
from linformer_jax import loading, step
from linformer_jax.data import pipeline
from linformer_jax.run import files, workdir
from linformer_jax.run import result as result_lib

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
N, K = 128, 32
UPDATES = 3_600  # of pretraining, of 1,024 tokens
WINDOW, SLOTS = 8, 8  # of the mixed stack; see experiments/hybrid
CONFIG = "experiments/finetune/config.py"
BATCH, WARMUP = 32, 0.06
ROWS = 128  # of a batch of validation
BUCKETS = 3  # batches are padded to 32, 64 or 128 tokens
# name: (label, argument of the config, further flags)
MODELS = {
  "softmax": ("softmax attention", f"k={K},attention=softmax", ()),
  "none": (f"k = {K}, an E and an F for each head", f"k={K}", ()),
  "headwise": (f"k = {K}, headwise", f"k={K},sharing=headwise", ()),
  "key_value": (f"k = {K}, key-value", f"k={K},sharing=key_value", ()),
  "layerwise": (f"k = {K}, layerwise", f"k={K},sharing=layerwise", ()),
  "half": (f"k = {2 * K}, headwise", f"k={2 * K},sharing=headwise", ()),
  "mixed": (
    f"windows of {WINDOW} below, {SLOTS} slots above",
    f"k={SLOTS},attention=local+local+linformer+linformer",
    (("attention.local.window", str(WINDOW)),),
  ),
}
UNTRAINED = "untrained"  # softmax attention without pretraining
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
CHOSEN = 1e-3  # the best of the pilots
PILOTS = (("softmax", "sst2"), ("softmax", "mrpc"), ("none", "sst2"))
PRETRAINING = "masked_lm"  # the task of an item that tells pretraining's loss
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Item:
  """One model on one task.

  Attributes:
    task: a key of `data.TASKS`, or `PRETRAINING`.
    model: a key of `MODELS`, `UNTRAINED`, or one of `floors.MODELS`.
    rate: the largest learning rate of fine-tuning; 0 if there is none.
    seed: of fine-tuning; models are pretrained once.
    split: of the texts that are labeled.
  """

  task: str
  model: str
  rate: float = 0.0
  seed: int = 0
  split: str = "test"

  tokens = "subwords"
  n = N
  step = UPDATES

  def point(self) -> panels.Point:
    """Returns the pretraining run as a point of the recipe."""
    name = "softmax" if self.model == UNTRAINED else self.model
    label, argument, flags = MODELS[name]
    flags = (*runs.kept(UPDATES).items(), *runs.TOKENS["subwords"], *flags)
    return panels.Point(
      name, label, f"n={N},{argument},updates={UPDATES}", flags
    )


def pilots() -> list[Item]:
  """Returns the runs that chose the learning rate."""
  return [
    Item(task, model, rate, split="validation")
    for model, task in PILOTS
    for rate in RATES
  ]


def items() -> list[Item]:
  """Returns all items: floors, pretraining, pilots, then seed by seed."""
  tasks, models = data.TASKS, (*MODELS, UNTRAINED)
  found = [Item(t, m) for t, m in itertools.product(tasks, floors.MODELS)]
  found += [Item(PRETRAINING, model) for model in MODELS] + pilots()
  return found + [
    Item(task, model, CHOSEN, seed)
    for seed, task, model in itertools.product(SEEDS, tasks, models)
  ]


class Runs(runs.Runs):
  """Pretrained and fine-tuned models."""

  def __init__(self, text: str, folder: str, workdir: str):
    super().__init__(text, workdir)
    self._data, self._folder = folder, files.folder(workdir).absolute()

  def _files(self, task: str) -> dict[str, pathlib.Path]:
    return data.write(task, pathlib.Path(self._data), self._folder / "data")

  def words(self, item: Item) -> list[str]:
    """Returns the command line that fine-tunes an item's model."""
    task, point = data.TASKS[item.task], item.point()
    paths = self._files(item.task)
    steps = len(data.rows(paths["train"])) * task.epochs // BATCH
    start = self._pretrained(item)
    fields = {
      "seed": item.seed,
      "data.seed": item.seed,
      "data.files": paths["train"],
      "data.validation_files": paths[item.split],
      "data.sequence_length": N,
      "data.length_buckets": BUCKETS,
      "data.tokenizer_path": start / workdir.TOKENIZER,
      "task.metric": task.metric,
      "train.batch_size": BATCH,
      "train.num_steps": steps,
      "optimizer.learning_rate": f"{item.rate:g}",
      "optimizer.warmup_steps": round(WARMUP * steps),
      "run.eval_every_steps": 0,
      "run.checkpoint_every_steps": steps,
      "run.eval_batch_size": ROWS,
    }
    fields |= {
      name: value
      for name, value in point.flags
      if name.startswith(("model.", "attention."))
    }
    words = [f"--config={CONFIG}:{point.argument}"]
    words += [f"--config.{name}={value}" for name, value in fields.items()]
    if item.model != UNTRAINED:
      words.append(f"--init_from={start}")
    return [*words, f"--workdir={self.folder(item)}"]

  def folder(self, item: Item) -> pathlib.Path:
    """Returns the folder of a fine-tuned model."""
    name = f"{item.task}-{item.model}-r{item.rate:g}-s{item.seed}"
    return self._folder / (f"{name}-{item.split}")

  def _pretrained(self, item: Item) -> pathlib.Path:
    """Returns the folder of a pretrained model, after training it."""
    run = self.run(dataclasses.replace(item, task=PRETRAINING, seed=0))
    runs.train(run)
    return files.folder(run.workdir).absolute()

  def measure(self, item: Item) -> dict:
    """Labels the texts of a split, after training."""
    if item.task == PRETRAINING:
      return super().measure(item)
    paths = self._files(item.task)
    texts = data.rows(paths[item.split])
    found, parameters, seconds = self._labeled(item, texts)
    labels = [row["label"] for row in texts]
    return {
      "accuracy": round(float(np.mean(np.equal(found, labels))), 5),
      "parameters": parameters,
      "run_seconds": round(seconds, 1),
      "data_sha256": data.digest(paths),
      "answers": "".join(map(str, found)),
      "labels": "".join(map(str, labels)),
    }

  def _labeled(self, item: Item, texts) -> tuple[list[int], int, float]:
    """Returns the labels given, the parameters, and seconds of training."""
    if item.model in floors.MODELS:
      train = data.rows(self._files(item.task)["train"])
      return floors.answers(item.model, train, texts), 0, 0.0
    folder = self.folder(item)
    if not (folder / result_lib.RESULT).exists():
      print(f"fine-tuning {folder.name}", flush=True)
      if status := sweep.launch(self.words(item)):
        sys.exit(status)
    result = result_lib.read(folder)
    given = answers(folder)
    right = np.mean(np.equal(given, [row["label"] for row in texts]))
    if abs(right - result["accuracy"]) > 0.5 / len(texts):
      raise ValueError(
        f"{folder}: {right:.4f} of the answers are right, and result.json says "
        f"{result['accuracy']:.4f}"
      )
    return given, result["parameters"], result["busy_seconds"]


def answers(folder: pathlib.Path) -> list[int]:
  """Returns the label that a run gives to each of its validation texts."""
  found = loading.load(str(folder))
  task = step.task_of(found.config)
  fields = found.config.data.to_dict() | {"length_buckets": 0}  # in order
  corpus = pipeline.prepare(pipeline.DataConfig(**fields))

  @jax.jit
  def best(variables, batch):
    return task.outputs_of(variables, batch, None).argmax(-1)

  given = []
  for batch in pipeline.validation_batches(corpus, task, ROWS):
    labels = np.asarray(best(found.variables, batch))
    given += labels[batch["weight"] > 0].tolist()
  return given


def tell(line: dict) -> str:
  """Returns a line of progress."""
  where = f"{line['task']}, {line['model']}, seed {line['seed']}"
  if line["task"] == PRETRAINING:
    return f"{where}: {line['nats']:.4f} nats"
  rate = f", rate {line['rate']:g}" if line["rate"] else ""
  return f"{where}{rate}: {line['accuracy']:.1%} of {line['split']} texts"


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = grid.parser(__doc__, RESULTS)
  parser.add_argument("--text", help="folder of experiments.text", default="")
  parser.add_argument("--data", help="folder of labeled texts", default="")
  parser.add_argument("--workdir", default="runs/finetune")
  given = parser.parse_args(words)
  if not given.list and not (given.text and given.data):
    parser.error("--text=FOLDER and --data=FOLDER are needed")
  made = Runs(given.text, given.data, given.workdir)
  grid.work(items(), given, made.measure, tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())

"""Trains every attention on reduced tasks of the Long Range Arena.

  .venv/bin/pip install scikit-learn    # for the digits
  .venv/bin/python -m experiments lra --data=FOLDER

Lists of up to 254 words, reviews of 1,022 bytes, and digits of 8 x 8 gray
levels; two layers of width 64, one recipe for all. --data has
imdb/train.jsonl.xz and imdb/test.jsonl.xz, as for experiments/finetune.
`pilots` chose the learning rates, on validation texts; the test split is read
once, at the end of a run. Stop it when you like; the same command resumes. A
run takes 2 to 10 minutes on a core; to use two, start the command twice with
different --only, --results and `taskset -c`, and concatenate the files.
"""

import dataclasses
import json
import pathlib
import sys

from experiments import grid
from experiments.finetune import data as reviews
from experiments.lra import config as lra_config
from experiments.lra import listops, pixels
from experiments.perplexity import sweep
from linformer_jax.run import files
from linformer_jax.run import result as result_lib

RESULTS = pathlib.Path(__file__).parent / "results" / "runs.jsonl"
CONFIG = "experiments/lra/config.py"
TASKS = {
  "listops": "ListOps, 254 words",
  "text": "Text, 1,022 bytes",
  "digits": "digits, 64 pixels",
}
LISTS = {"train": 20_000, "valid": 1_000, "test": 2_000}
# Lists fit 254 words, and few are short.
RECIPE = listops.Recipe(shortest=63, longest=255)
WINDOW, SLOTS = 8, 64
# name: (label, attention, k, further flags)
_ONE = {"attention.sharing": "layerwise"}
MODELS = {
  "softmax": ("softmax attention", "softmax", 0, {}),
  "local": (f"windows of {WINDOW}", "local", 0, {"attention.window": WINDOW}),
  "official": ("Linformer, k = 16, no masks", "linformer", 16, _ONE),
  "slots16": ("Linformer, k = 16", "linformer", 16, _ONE),
  "slots64": ("Linformer, k = 64", "linformer", 64, _ONE),
  "slots256": ("Linformer, k = 256", "linformer", 256, _ONE),
  "mixed": (
    f"windows of {WINDOW} below, k = {SLOTS} above",
    "local+linformer",
    SLOTS,
    {
      "attention.local.window": WINDOW,
      "attention.linformer.sharing": "layerwise",
    },
  ),
  "transformer_ls": (
    "Transformer-LS",
    "transformer_ls",
    0,
    {"attention.projected_length": 16, "attention.window": WINDOW},
  ),
  "nystrom": ("Nystromformer", "nystrom", 0, {"attention.num_landmarks": 32}),
  "luna": ("Luna", "luna", 0, {"attention.projected_length": 16}),
  "adamra": ("AdaMRA", "adamra", 0, {"attention.ratios": (1, 4, 16)}),
  "linear": ("Linear Transformer", "linear", 0, {}),
  "performer": ("Performer", "performer", 0, {"attention.num_features": 64}),
  "cosformer": ("cosFormer", "cosformer", 0, {}),
  "fnet": ("FNet", "fnet", 0, {}),
}
UNMASKED = "official"
PRETRAINED = ("softmax", "official", "slots64", "mixed", "performer")
RATES = (3e-4, 1e-3, 3e-3)
PILOTS = ("softmax", "slots64")
CHOSEN = {"listops": 1e-3, "text": 1e-3, "digits": 1e-3}
SEEDS = (0, 1, 2)
EVALUATED = 50  # rows of a batch


@dataclasses.dataclass(frozen=True)
class Item:
  """One run.

  Attributes:
    task: a key of `TASKS`.
    model: a key of `MODELS`.
    rate: the largest learning rate.
    seed: of the weights and the batches; pretraining has seed 0.
    pretrained: whether a masked language model of the training texts starts.
    split: of the texts that are scored.
  """

  task: str
  model: str
  rate: float
  seed: int = 0
  pretrained: bool = False
  split: str = "test"

  def words(self, folder: pathlib.Path, objective: str = "label") -> list[str]:
    """Returns the config and the flags of its model, for data in a folder."""
    _, attention, k, flags = MODELS[self.model]
    if objective == "label" and self.model == UNMASKED:
      objective = "unmasked"
    argument = f"task={self.task},attention={attention},objective={objective}"
    argument += f",folder={folder}"
    if k:
      argument += f",k={k}"
    words = [f"--config={CONFIG}:{argument}"]
    return words + [f"--config.{name}={flags[name]}" for name in flags]


def fits(task: str, model: str) -> bool:
  """Returns whether a model's slots are at most the tokens of a task."""
  return MODELS[model][2] <= lra_config.TASKS[task][1]


def pilots() -> list[Item]:
  """Returns the runs that chose the learning rates."""
  return [
    Item(task, model, rate, split="valid")
    for task in TASKS
    for model in PILOTS
    for rate in RATES
  ]


def items() -> list[Item]:
  """Returns all items: pilots, then seed by seed, pretrained ones last."""
  pairs = [(t, m) for t in TASKS for m in MODELS if fits(t, m)]
  found = pilots() + [
    Item(task, model, CHOSEN[task], seed)
    for seed in SEEDS
    for task, model in pairs
  ]
  return found + [
    Item(task, model, CHOSEN[task], seed, pretrained=True)
    for seed in SEEDS
    for task in ("listops", "text")
    for model in PRETRAINED
  ]


class Runs:
  """Runs, their data, and the pretraining runs that start some of them."""

  def __init__(self, data: str, workdir: str):
    self._data, self._folder = data, files.folder(workdir).absolute()

  def texts(self, task: str) -> pathlib.Path:
    """Returns the folder of a task's texts, written if it is not there."""
    folder = self._folder / "data" / task
    if not (folder / "test.jsonl").exists():
      _WRITERS[task](folder, pathlib.Path(self._data))
    return folder

  def _train(self, name: str, words: list[str]) -> dict:
    folder = self._folder / name
    if not (folder / result_lib.RESULT).exists():
      print(f"training {name}", flush=True)
      if status := sweep.launch([*words, f"--workdir={folder}"]):
        sys.exit(status)
    return result_lib.read(folder)

  def measure(self, item: Item) -> dict:
    """Trains a model, after pretraining if it has to be."""
    folder = self.texts(item.task)
    start = []
    if item.pretrained:
      name = f"{item.task}-{item.model}-pretrained"
      self._train(name, item.words(folder, "masked_lm"))
      start = [f"--init_from={self._folder / name}"]
    fields = {
      "seed": item.seed,
      "optimizer.learning_rate": f"{item.rate:g}",
      "data.validation_files": folder / f"{item.split}.jsonl",
      "run.eval_batch_size": EVALUATED,
    }
    words = item.words(folder) + [
      f"--config.{name}={value}" for name, value in fields.items()
    ]
    kind = "-pretrained" * item.pretrained
    name = f"{item.task}-{item.model}{kind}-r{item.rate:g}-s{item.seed}"
    result = self._train(f"{name}-{item.split}", words + start)
    return {
      "accuracy": round(result["accuracy"], 5),
      "texts": int(result["targets"]),
      "majority": round(result["majority_accuracy"], 5),
      "parameters": result["parameters"],
      "updates": result["step"],
      "run_seconds": round(result["busy_seconds"], 1),
      "data_sha256": result["data_sha256"],
    }


def _lists(folder: pathlib.Path, data: pathlib.Path):
  del data
  listops.write(folder, LISTS, RECIPE)


def _digits(folder: pathlib.Path, data: pathlib.Path):
  del data
  pixels.main(["--images=digits", f"--to={folder}"])


def _reviews(folder: pathlib.Path, data: pathlib.Path):
  folder.mkdir(parents=True, exist_ok=True)
  rows = reviews.divide("imdb", data)
  for split, name in zip(reviews.SPLITS, LISTS, strict=True):
    text = "".join(json.dumps(row) + "\n" for row in rows[split])
    (folder / f"{name}.jsonl").write_text(text)


_WRITERS = {"listops": _lists, "text": _reviews, "digits": _digits}


def tell(line: dict) -> str:
  """Returns a line of progress."""
  kind = ", pretrained" * line["pretrained"]
  return (
    f"{line['task']}, {line['model']}{kind}, rate {line['rate']:g}, seed "
    f"{line['seed']}: {line['accuracy']:.1%} of {line['split']}"
  )


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = grid.parser(__doc__, RESULTS)
  parser.add_argument("--data", help="folder of labeled texts", default="")
  parser.add_argument("--workdir", default="runs/lra")
  given = parser.parse_args(words)
  if not given.list and not given.data:
    parser.error("--data=FOLDER is needed: it has imdb/train.jsonl.xz")
  grid.work(items(), given, Runs(given.data, given.workdir).measure, tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())

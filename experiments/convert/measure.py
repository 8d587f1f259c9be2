"""Converts MiniLM-L6 and compares its sentence similarities.

  .venv/bin/python -m experiments convert --model=FOLDER --mrpc=FOLDER \
    --trecqa=FOLDER --imdb=FOLDER

All six layers get k slots. An item is a start of E and F, k, and minutes of
distillation. Pin it to one core (taskset -c 1): minutes are those of the
process on its processor, so they do not depend on what else the machine does.
The minutes of one start and k are points of one run, which a new process
trains from its start.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import lzma
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers

from experiments import grid
from experiments.convert import compare
from linformer_jax.convert import distill, starts, texts
from linformer_jax.models import convert, weights

RESULTS = pathlib.Path(__file__).parent / "results" / "similarities.jsonl"
K = 128
MINUTES = (0, 1, 3, 10)
# Of the pairs; texts have at most so many tokens.
PAIRS, SHORT, LONG, REVIEWS = 64, 64, 512, 24
LEAST = 400  # tokens of a review
RATE, WARMUP, BATCH = 2e-4, 10, 2


@dataclasses.dataclass(frozen=True)
class Item:
  """A measurement.

  Attributes:
    start: one of `starts.STARTS`.
    k: slots of each layer.
    minutes: of distillation, on one core.
    texts: of distillation: 'reviews', or 'mixed', where every other batch has
      sentences of MRPC and TrecQA, as many tokens in all.
  """

  start: str
  k: int
  minutes: int = 0
  texts: str = "reviews"


def items() -> list[Item]:
  """Returns all items, the most telling first."""
  pool = convert.ADAPTIVE
  found = [Item(start, K) for start in starts.STARTS]
  found += [Item(pool, K, minutes) for minutes in MINUTES[1:]]
  found += [Item(pool, K, minutes, "mixed") for minutes in MINUTES[2:]]
  found += [Item(pool, k) for k in (16, 64, 256)]
  found += [
    Item(start, k)
    for start, k in itertools.product(("mean_pool", "fitted"), (64, 256))
  ]
  return found


def lines(folder: str, part: str, count: int) -> list[dict]:
  """Returns the first lines of PART.jsonl.xz in a folder."""
  with lzma.open(pathlib.Path(folder) / f"{part}.jsonl.xz", "rt") as file:
    return [json.loads(line) for line in itertools.islice(file, count)]


class Subject:
  """MiniLM-L6, the sets of texts, and what was converted from it."""

  def __init__(self, given):
    folder = pathlib.Path(given.model)
    path = weights.find(folder)
    self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config, variables = weights.load(folder)
    self._tokenizer = tokenizers.Tokenizer.from_file(
      str(folder / "tokenizer.json")
    )
    self._tokenizer.no_padding()
    self.original = distill.encoder_of(config, jax.device_put(variables))
    self.sets = {
      name: self._pairs(getattr(given, name)) for name in ("mrpc", "trecqa")
    }
    self.sets["imdb"] = self._reviews(self._long(given.imdb, "test", REVIEWS))
    self.fitted = self._rows(self._long(given.imdb, "train", 32), LONG)
    self._train = {
      "reviews": self._rows(self._long(given.imdb, "train", 512), LONG),
      "sentences": self._rows(
        [
          text
          for folder in (given.mrpc, given.trecqa)
          for row in lines(folder, "train", 2_000)
          for text in (row["text"], row["text_pair"])
        ],
        SHORT,
      ),
    }
    self._runs = {}

  def _ids(self, rows, length):
    self._tokenizer.enable_truncation(length)
    return [encoding.ids for encoding in self._tokenizer.encode_batch(rows)]

  def _rows(self, rows, length) -> texts.Texts:
    found = self._ids(rows, length)
    tokens = np.zeros((len(found), length), np.int32)  # [PAD] has id 0
    for row, ids in zip(tokens, found, strict=True):
      row[: len(ids)] = ids
    sizes = np.array([len(ids) for ids in found])
    return texts.Texts(tokens, np.arange(length) < sizes[:, None])

  def _pairs(self, folder) -> compare.Set:
    rows = lines(folder, "test", PAIRS)
    both = [row[name] for row in rows for name in ("text", "text_pair")]
    return compare.Set(
      self._rows(both, SHORT),
      np.arange(2 * len(rows)).reshape(-1, 2),
      np.array([row["label"] for row in rows]),
    )

  def _long(self, folder, part, count) -> list[str]:
    """Returns reviews of at least `LEAST` tokens."""
    found = [row["text"] for row in lines(folder, part, 20 * count)]
    sizes = map(len, self._ids(found, LONG))
    pairs = zip(found, sizes, strict=True)
    return [text for text, size in pairs if size >= LEAST][:count]

  def _reviews(self, found) -> compare.Set:
    pairs = np.stack(np.triu_indices(len(found), 1), axis=1)
    return compare.Set(self._rows(found, LONG), pairs)

  def converted(self, item: Item) -> distill.Encoder:
    """Returns the encoder with slots, before distillation."""
    config, variables = self.original.config, self.original.variables
    layers = list(range(config.num_layers))
    if item.start == convert.ADAPTIVE:
      by = dict.fromkeys(layers)
    elif item.start in starts.ON_TEXTS:
      by = starts.on_texts(
        item.start, self.original, self.fitted, item.k, layers
      )
    else:
      by = convert.projections(item.start, config, item.k, layers)
    return distill.encoder_of(*convert.convert(config, variables, item.k, by))

  def run(self, item: Item) -> "Run":
    """Returns the distillation of an item's start and k."""
    name = item.start, item.k, item.texts
    if name not in self._runs or self._runs[name].minutes > item.minutes:
      run = Run(self, item)
      self._runs = {name: run}  # one at a time
    return self._runs[name]

  def stream(self, name: str):
    """Returns batches of `Item.texts`."""
    reviews, sentences = (
      distill.batches(found.tokens, found.mask, rows)
      for found, rows in (
        (self._train["reviews"], BATCH),
        (self._train["sentences"], BATCH * LONG // SHORT),
      )
    )
    if name == "reviews":
      return reviews
    both = zip(reviews, sentences, strict=False)
    return itertools.chain.from_iterable(both)

  @functools.cached_property
  def exact(self) -> dict[str, np.ndarray]:
    """Embeddings [B, M] by the original."""
    return {
      name: compare.embed(self.original, x) for name, x in self.sets.items()
    }

  def measure(self, item: Item) -> dict:
    """Compares a converted encoder with the original."""
    run = self.run(item)
    run.advance(item.minutes)
    found = {}
    for name, chosen in self.sets.items():
      got, exact = compare.embed(run.encoder, chosen), self.exact[name]
      found[name] = compare.agreement(chosen, got, exact)
    return {
      "updates": run.updates,
      "loss": run.loss,
      "weights_sha256": self.digest,
      "sets": found,
    }


class Run:
  """A distillation that is advanced minute by minute."""

  def __init__(self, subject: Subject, item: Item):
    self.encoder = subject.converted(item)
    self.updates, self.loss, self.minutes = 0, None, 0
    schedule = optax.linear_schedule(0.0, RATE, WARMUP)
    self._distillation = distill.Distillation(
      subject.original, self.encoder, schedule
    )
    self._stream = subject.stream(item.texts)
    self._shapes = len({"reviews", item.texts})  # of batches

  def advance(self, minutes: int):
    """Trains until the run has had so many minutes; compiling is not timed."""
    while minutes and self._shapes:
      self._distillation.update(*next(self._stream))  # the first at rate zero
      self._shapes -= 1
    losses, start = [], time.process_time()
    while time.process_time() - start < 60 * (minutes - self.minutes):
      losses.append(float(self._distillation.update(*next(self._stream))))
    self.updates += len(losses)
    self.minutes = minutes
    if losses:
      self.loss = round(float(np.mean(losses[-20:])), 6)
      variables = self.encoder.variables | {"params": self._distillation.params}
      self.encoder = dataclasses.replace(
        self.encoder, variables=jax.tree.map(jnp.array, variables)
      )


def tell(line: dict) -> str:
  """Returns a line of progress."""
  found = ", ".join(
    f"{name} {values['spearman']:.4f}" for name, values in line["sets"].items()
  )
  return (
    f"{line['start']}, k = {line['k']}, {line['minutes']} minutes "
    f"({line['updates']} updates, {line['texts']}): {found}"
  )


def add_flags(parser, *names: str):
  """Adds the folders that the measurements read."""
  for name in names:
    parser.add_argument(f"--{name}", help=f"folder of {name}", default="")


def main(words=None) -> int:
  """Runs the command line; returns the exit status."""
  parser = grid.parser(__doc__, RESULTS)
  names = ("model", "mrpc", "trecqa", "imdb")
  add_flags(parser, *names)
  given = parser.parse_args(words)
  subject = None
  if not given.list:
    for name in names:
      if not getattr(given, name):
        parser.error(f"--{name}=FOLDER is needed")
    subject = Subject(given)
  grid.work(items(), given, lambda item: subject.measure(item), tell)
  return 0


if __name__ == "__main__":
  sys.exit(main())

"""Makes batches for a task, the same ones on any number of processes.

`prepare` opens a corpus, tokenized once and cached. `train_iterator` and
`validation_batches` build the task's examples on the fly. Every process derives
them from the same seeds without communication, and global batch b has the same
rows, in the same order, for any number of processes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from linformer_jax.data import buckets as buckets_lib
from linformer_jax.data import config as config_lib
from linformer_jax.data import pairs
from linformer_jax.data.text import corpus as corpus_lib
from linformer_jax.data.text import provenance
from linformer_jax.data.text import special as special_lib

# Re-exported so that callers need only this module.
DataConfig = config_lib.DataConfig
Corpus = corpus_lib.Corpus
Record = provenance.Record
read_record = provenance.from_json
# Opens the records of each `data.source`. A config file may add entries.
DATASETS = dict.fromkeys(corpus_lib.SOURCES, corpus_lib.prepare)
DATASETS["labeled"] = pairs.prepare

# Validation has its own seed and an epoch that training never reaches, so every
# run on a corpus is scored on the same predictions.
_VALIDATION_SEED = 0
_VALIDATION_EPOCH = 2**32 - 1
# The number of blocks in "endless" training: grain counts their batches in
# floating point, which is exact up to here.
_ENDLESS = 2**53
# In place of a record, for the order of an epoch.
_ORDER = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What a data set of `DATASETS` returns, or any object with these attributes.

  Attributes:
    train, validation: sequences of records, dicts of numpy arrays.
    directory: their location, for messages.
    record: how the records were made, to recognize them on resume, or None.
    tokenizer_json: for the run's folder, or None.
    token_counts: int64 [V], occurrences in training, for language models.
    labels: names of classes, for the run's folder.
    special: special tokens, for tasks on texts.
  """

  train: Sequence[dict[str, np.ndarray]]
  validation: Sequence[dict[str, np.ndarray]]
  directory: str = "memory"
  record: Record | None = None
  tokenizer_json: str | None = None
  token_counts: np.ndarray | None = None
  labels: tuple[int | str, ...] = ()
  special: special_lib.Special = special_lib.TRAINED


def prepare(config: DataConfig, known: Record | None = None) -> Any:
  """Opens the records of a config; see `text.corpus.prepare`.

  Returns:
    A `Dataset`, or an object with its attributes and what else the task needs.

  Raises:
    ValueError: in one line, for a source that is unknown or unusable.
  """
  if config.source not in DATASETS:
    raise ValueError(
      f"data.source is {config.source!r}; it must be one of {sorted(DATASETS)}"
    )
  return DATASETS[config.source](config, known)


def train_iterator(
  corpus: Corpus,
  task,
  seed: int,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 1,
  prefetch: int = 16,
  buckets: int = 0,
) -> grain.DatasetIterator:
  """Returns an iterator of training batches that never ends.

  Every epoch visits each record once, in a new order and with new random draws.
  A batch may span two epochs, so nothing is dropped. The state,
  `{'next_index': b}`, counts global batches: it is the same on every process
  and stays valid if the number of processes changes.

  Args:
    corpus: as returned by `prepare`.
    task: a `tasks.Task`, which turns records into rows.
    seed: seeds the order and the task's draws.
    batch_size: the number of rows in the global batch.
    process_index: the index of this process.
    process_count: a divisor of `batch_size`. This process gets
      `batch_size // process_count` rows, starting at
      `process_index * batch_size // process_count`.
    num_threads: threads that read ahead; 0 reads on demand.
    prefetch: batches to read ahead.
    buckets: `data.length_buckets`. If it is not 0, no batch spans two epochs.

  Returns:
    A grain iterator with `next`, `get_state` and `set_state`, which
    `grain.checkpoint` saves.

  Raises:
    ValueError: if the sizes disagree.
  """
  rows = _rows(batch_size, process_index, process_count)
  fields = task.spec(masked=task.short)

  def row(epoch: int, record: int) -> dict[str, np.ndarray]:
    if record < 0:
      return task.filler()
    rng = record_rng(seed, epoch, record)
    return task.example(corpus.train[record], rng, corpus)

  def example(index: int, record: int) -> dict[str, np.ndarray]:
    found = row(index // len(corpus.train), record)
    return {name: found[name] for name in fields}

  def batch(epoch: int, length: int, records: np.ndarray):
    mine = records[process_index * rows :][:rows].tolist()
    examples = [row(epoch, record) for record in mine]
    return buckets_lib.shortened(examples, fields, length)

  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=prefetch
  )
  if buckets:
    dataset = buckets_lib.train_dataset(
      _divide(corpus, corpus.train, task, batch_size, buckets),
      lambda epoch: record_rng(seed, epoch, _ORDER),
      batch,
      _ENDLESS,
    )
    return iter(dataset.to_iter_dataset(options))
  # Examples are built before the shuffle, where the index is still
  # epoch * length + record. The source is a range and not the records, as grain
  # builds elements of a source to measure them.
  dataset = (
    grain.MapDataset.range(len(corpus.train))
    .map_with_index(example)
    .seed(seed)
    .shuffle()
    .repeat(_ENDLESS // len(corpus.train))
    .batch(rows)
  )
  # Each global batch is `process_count` of these; take this process's.
  dataset = dataset.slice(slice(process_index, None, process_count))
  return iter(dataset.to_iter_dataset(options))


def _divide(corpus: Corpus, records, task, batch_size: int, buckets: int):
  """See `buckets.in_buckets`."""
  sizes = records.sizes(corpus.special)
  return buckets_lib.in_buckets(sizes, batch_size, task.length, buckets)


def validation_batches(
  corpus: Corpus,
  task,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  buckets: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns the held-out split, once, with fixed random draws.

  Records are in order, or in buckets of like length.

  The task's filler rows, which have weight 0, complete the last batch.

  Args:
    corpus: as returned by `prepare`.
    task: a `tasks.Task`, which turns records into rows.
    batch_size: the number of rows in the global batch.
    process_index: the index of this process.
    process_count: a divisor of `batch_size`.
    buckets: `data.length_buckets`.

  Returns:
    An iterator with the same number of batches on every process.

  Raises:
    ValueError: if the sizes disagree; at the call, not at the first batch.
  """
  rows = _rows(batch_size, process_index, process_count)

  def row(record: int) -> dict[str, np.ndarray]:
    if not 0 <= record < len(corpus.validation):
      return task.filler()
    rng = record_rng(_VALIDATION_SEED, _VALIDATION_EPOCH, record)
    return task.example(corpus.validation[record], rng, corpus)

  def batches() -> Iterator[dict[str, np.ndarray]]:
    if buckets:
      fields = task.spec(masked=True)
      held = corpus.validation
      for length, records in _divide(corpus, held, task, batch_size, buckets)():
        mine = records[process_index * rows :][:rows].tolist()
        yield buckets_lib.shortened([*map(row, mine)], fields, length)
      return
    for start in range(0, len(corpus.validation), batch_size):
      first = start + process_index * rows
      examples = [row(record) for record in range(first, first + rows)]
      yield {
        name: np.stack([example[name] for example in examples])
        for name in examples[0]
      }

  return batches()


def _rows(
  batch_size: int,
  process_index: int,
  process_count: int,
) -> int:
  """Returns the rows per process and batch, after checking the sizes."""
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index is {process_index} of {process_count} processes"
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"batch_size {batch_size} is not a positive multiple of the"
      f" {process_count} processes"
    )
  return batch_size // process_count


def record_rng(seed: int, epoch: int, record: int) -> np.random.Generator:
  """Returns an independent generator for each (seed, epoch, record).

  Philox is counter-based: streams with different keys are independent, so the
  three numbers serve as the key without hashing. The draws for a record do not
  depend on the batch, the order of reading or the number of processes.

  Args:
    seed: below 2**32.
    epoch: below 2**32.
    record: below 2**64.
  """
  return np.random.Generator(
    np.random.Philox(key=(seed << 96) | (epoch << 64) | record)
  )

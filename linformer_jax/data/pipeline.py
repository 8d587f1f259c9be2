"""From records to batches of a task, the same on any number of processes.

`prepare` opens a corpus, tokenized once and cached; `train_iterator` and
`validation_batches` make the task's examples as they are read. Every process
makes the same decisions from the same numbers, so nothing is exchanged between
hosts, and the rows of global batch b are the same, in the same order, for any
number of processes.
"""

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from linformer_jax.data import pairs
from linformer_jax.data.text import corpus as corpus_lib
from linformer_jax.data.text import provenance

# What a user of batches needs is here; where it comes from, in `corpus`.
DataConfig = corpus_lib.DataConfig
Corpus = corpus_lib.Corpus
Record = provenance.Record
read_record = provenance.from_json
# How the records of a `data.source` are opened. A config file may add to it.
DATASETS = dict.fromkeys(corpus_lib.SOURCES, corpus_lib.prepare)
DATASETS["labeled"] = pairs.prepare

# Draws of validation belong to no seed and no epoch of training: every run on a
# corpus is scored on the same predictions.
_VALIDATION_SEED = 0
_VALIDATION_EPOCH = 2**32 - 1
# Blocks of "endless" training: batches of them are counted in floating point by
# grain, which is exact up to here.
_ENDLESS = 2**53


def prepare(config: DataConfig, known: Record | None = None) -> Any:
  """Opens the records of a config; see `text.corpus.prepare`.

  Returns:
    An object with `train` and `validation`, sequences of dicts of numpy arrays
    that have a `sequence_length`; `directory`, where they lie, for a message;
    `record` and `tokenizer_json`, for the run's folder, or None; and what the
    task needs of it.

  Raises:
    ValueError: in one line, for a source that is none, or cannot be used.
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
) -> grain.DatasetIterator:
  """Endless training batches.

  Every epoch has an order and draws of its own and every record once; a batch
  may span two epochs, so nothing is dropped. The state, `{'next_index': b}`,
  counts global batches: it is the same on every process and holds for another
  number of processes.

  Args:
    corpus: from `prepare(config)`.
    task: a `tasks.Task`, which makes rows of records.
    seed: of the order and of the task's draws.
    batch_size: rows of the global batch.
    process_index: of this process.
    process_count: a divisor of `batch_size`. This process gets the rows from
      `process_index * batch_size // process_count` on.
    num_threads: that read ahead; 0 reads when asked.
    prefetch: batches to read ahead.

  Returns:
    A grain iterator: `next`, `get_state`, `set_state`; `grain.checkpoint`
    saves it.

  Raises:
    ValueError: if sizes disagree.
  """
  rows = _rows(corpus, task, batch_size, process_index, process_count)
  fields = task.spec(masked=task.short)

  def example(index: int, record: int) -> dict[str, np.ndarray]:
    epoch = index // len(corpus.train)
    rng = record_rng(seed, epoch, record)
    row = task.example(corpus.train[record], rng, corpus)
    return {name: row[name] for name in fields}

  # The example is made before the shuffle, where the index still says the
  # epoch: epoch * length + record. Records and not blocks are the source, as
  # grain measures each element of a source at the cost of making it.
  dataset = (
    grain.MapDataset.range(len(corpus.train))
    .map_with_index(example)
    .seed(seed)
    .shuffle()
    .repeat(_ENDLESS // len(corpus.train))
    .batch(rows)
  )
  # The process's batches, of every `process_count` in turn.
  dataset = dataset.slice(slice(process_index, None, process_count))
  return iter(
    dataset.to_iter_dataset(
      grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    )
  )


def validation_batches(
  corpus: Corpus,
  task,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """The whole held-out split, once, in order, under draws that never change.

  The task's filler, of weight 0, fills up the last batch.

  Args:
    corpus: from `prepare(config)`.
    task: a `tasks.Task`, which makes rows of records.
    batch_size: rows of the global batch.
    process_index: of this process.
    process_count: a divisor of `batch_size`.

  Returns:
    As many batches on every process.

  Raises:
    ValueError: if sizes disagree; at the call, not at the first batch.
  """
  rows = _rows(corpus, task, batch_size, process_index, process_count)

  def row(record: int) -> dict[str, np.ndarray]:
    if record >= len(corpus.validation):
      return task.filler()
    rng = record_rng(_VALIDATION_SEED, _VALIDATION_EPOCH, record)
    return task.example(corpus.validation[record], rng, corpus)

  def batches() -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(corpus.validation), batch_size):
      first = start + process_index * rows
      examples = [row(record) for record in range(first, first + rows)]
      yield {
        name: np.stack([example[name] for example in examples])
        for name in examples[0]
      }

  return batches()


def _rows(
  corpus: Corpus,
  task,
  batch_size: int,
  process_index: int,
  process_count: int,
) -> int:
  """Rows of one process's share of a batch, after checking the sizes."""
  if corpus.train.sequence_length != task.length:
    raise ValueError(
      f"the corpus has blocks of {corpus.train.sequence_length}, the task"
      f" rows of {task.length}"
    )
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
  """A generator of its own for each (seed, epoch, record).

  Philox is counter-based: streams under different keys are independent, so
  the key can be the three numbers themselves, unhashed, and what is drawn for a
  record depends on nothing else: not on the batch, the order of reading or the
  number of processes.

  Args:
    seed: below 2**32.
    epoch: below 2**32.
    record: below 2**64.

  Returns:
    A fresh generator.
  """
  return np.random.Generator(
    np.random.Philox(key=(seed << 96) | (epoch << 64) | record)
  )

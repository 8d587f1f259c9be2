"""Text to batches for masked language modelling.

`prepare` opens a corpus, tokenised once and cached; `train_iterator` and
`validation_batches` cut, mask and batch it as it is read. Every process makes
the same decisions from the same numbers, so nothing is exchanged between
hosts, and the rows of global batch b are the same, in the same order, for any
number of processes.

A batch is a dict of numpy arrays; B is the rows of this process, P the static
number of predictions in a row, `masking.num_predictions(N, mask_rate)`:
  tokens     int32 [B, N]    after masking
  mask       bool [B, N]     True at real tokens; validation alone, as training
                             blocks are whole and a model is quicker without
  positions  int32 [B, P]    ascending; 0 where the weight is 0
  targets    int32 [B, P]    the tokens that were there
  weights    float32 [B, P]  1 for a prediction, 0 for none
"""

from collections.abc import Iterable, Iterator

import grain
import numpy as np

from linformer_jax.data.text import corpus as corpus_lib
from linformer_jax.data.text import masking, provenance
from linformer_jax.data.text import tokenizer as tokenizer_lib

# What a user of batches needs is here; where it comes from, in `corpus`.
DataConfig = corpus_lib.DataConfig
Corpus = corpus_lib.Corpus
Record = provenance.Record
read_record = provenance.from_json
prepare = corpus_lib.prepare

# Validation masks belong to no seed and no epoch of training: the numbers of
# every run on a corpus are about the same predictions.
_VALIDATION_SEED = 0
_VALIDATION_EPOCH = 2**32 - 1
# Blocks of "endless" training: batches of them are counted in floating point by
# grain, which is exact up to here.
_ENDLESS = 2**53


def train_iterator(
  corpus: Corpus,
  config: DataConfig,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 1,
  prefetch: int = 16,
) -> grain.DatasetIterator:
  """Endless training batches.

  Every epoch has an order and masks of its own and every block once; a batch
  may span two epochs, so nothing is dropped. The state, `{'next_index': b}`,
  counts global batches: it is the same on every process and holds for another
  number of processes.

  Args:
    corpus: from `prepare(config)`.
    config: the `data` group.
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
  rows = _rows(corpus, config, batch_size, process_index, process_count)

  def example(index: int, record: int) -> dict[str, np.ndarray]:
    epoch = index // len(corpus.train)
    rng = masking.record_rng(config.seed, epoch, record)
    row = _masked(corpus, config, corpus.train[record], rng)
    del row["mask"]  # a training block has no pads
    return row

  # The example is made before the shuffle, where the index still says the
  # epoch: epoch * length + record. Records and not blocks are the source, as
  # grain measures each element of a source at the cost of masking it.
  dataset = (
    grain.MapDataset.range(len(corpus.train))
    .map_with_index(example)
    .seed(config.seed)
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
  config: DataConfig,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """The whole held-out split, once, in order, under masks that never change.

  Rows that fill up the last batch hold `<s>` alone and have weight 0: one real
  token, so that no softmax in a model is over nothing.

  Args:
    corpus: from `prepare(config)`.
    config: the `data` group.
    batch_size: rows of the global batch.
    process_index: of this process.
    process_count: a divisor of `batch_size`.

  Returns:
    As many batches on every process.

  Raises:
    ValueError: if sizes disagree; at the call, not at the first batch.
  """
  rows = _rows(corpus, config, batch_size, process_index, process_count)

  def row(record: int) -> dict[str, np.ndarray]:
    if record >= len(corpus.validation):
      return _filler(config)
    rng = masking.record_rng(_VALIDATION_SEED, _VALIDATION_EPOCH, record)
    return _masked(corpus, config, corpus.validation[record], rng)

  def batches() -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(corpus.validation), batch_size):
      first = start + process_index * rows
      examples = [row(record) for record in range(first, first + rows)]
      yield {
        name: np.stack([example[name] for example in examples])
        for name in examples[0]
      }

  return batches()


def unigram_perplexity(
  counts: np.ndarray, batches: Iterable[dict[str, np.ndarray]]
) -> float:
  """Perplexity of the targets under add-one smoothed training frequencies.

  A model that ignores the context can do no better than about this, so it is
  the line a masked language model has to pass.

  Args:
    counts: int64 [V], `Corpus.unigram_counts`.
    batches: with `targets` and `weights`; all of `validation_batches`.

  Returns:
    exp(sum of weighted nll / sum of weights).

  Raises:
    ValueError: if the weights sum to 0.
  """
  nll = np.log(counts.sum() + len(counts)) - np.log(counts + 1.0)
  total, weight = 0.0, 0.0
  for batch in batches:
    weights = batch["weights"].astype(np.float64)
    total += float((nll[batch["targets"]] * weights).sum())
    weight += float(weights.sum())
  if not weight:
    raise ValueError("there is nothing to score: the weights sum to 0")
  return float(np.exp(total / weight))


def _rows(
  corpus: Corpus,
  config: DataConfig,
  batch_size: int,
  process_index: int,
  process_count: int,
) -> int:
  """Rows of one process's share of a batch, after checking the sizes."""
  if corpus.train.sequence_length != config.sequence_length:
    raise ValueError(
      f"the corpus has blocks of {corpus.train.sequence_length}, the config"
      f" sequence_length {config.sequence_length}"
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


def _masked(
  corpus: Corpus,
  config: DataConfig,
  block: dict[str, np.ndarray],
  rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  return masking.mask_tokens(
    block["tokens"],
    block["mask"],
    rng,
    corpus.vocabulary,
    masking.num_predictions(config.sequence_length, config.mask_rate),
  )


def _filler(config: DataConfig) -> dict[str, np.ndarray]:
  length = config.sequence_length
  count = masking.num_predictions(length, config.mask_rate)
  tokens = np.full(length, tokenizer_lib.PAD_ID, dtype=np.int32)
  tokens[0] = tokenizer_lib.BOS_ID
  return {
    "tokens": tokens,
    "mask": np.arange(length) == 0,
    "positions": np.zeros(count, np.int32),
    "targets": np.zeros(count, np.int32),
    "weights": np.zeros(count, np.float32),
  }

"""Validation loss of each document, and intervals over documents."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linformer_jax.data import pipeline
from linformer_jax.data.text import special

RESAMPLES = 2_000


def ends(stream: np.ndarray) -> np.ndarray:
  """Returns the index of the document of each token of a stream."""
  ended = np.asarray(stream) == special.TRAINED.eos
  return np.cumsum(ended) - ended


class Every:
  """Every `step`-th record of a sequence."""

  def __init__(self, records, step: int):
    self._records, self._step = records, step

  def __len__(self) -> int:
    return -(-len(self._records) // self._step)

  def __getitem__(self, index: int):
    return self._records[index * self._step]


def losses(
  task, variables, corpus, batch_size: int, every: int = 1
) -> np.ndarray:
  """Returns the masked-token loss of each held-out document.

  Args:
    task: a `tasks.masked_lm.MaskedLM`.
    variables: of its module.
    corpus: as returned by `data.pipeline.prepare`.
    batch_size: rows per call.
    every: evaluate every such block alone, which is faster.

  Returns:
    float64 [documents, 2]: summed loss in nats, and the number of targets.
  """

  @jax.jit
  def nll(variables, batch):
    logits = task.logits(
      variables, batch, None, positions=batch["positions"]
    ).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["targets"]
    )

  document = ends(corpus.validation.tokens)
  sums = np.zeros((document[-1] + 1, 2))
  stride = corpus.validation.sequence_length - 1
  held = dataclasses.replace(corpus, validation=Every(corpus.validation, every))
  batches = pipeline.validation_batches(held, task, batch_size)
  for i, batch in enumerate(batches):
    found = np.asarray(nll(variables, batch), np.float64)
    real = batch["weights"] > 0
    blocks = every * (i * batch_size + np.arange(len(real))[:, None])
    # Position 0 of a block is <s>, which is not in the stream.
    place = (blocks * stride + batch["positions"] - 1)[real]
    np.add.at(sums[:, 0], document[place], found[real])
    np.add.at(sums[:, 1], document[place], 1)
  return sums


def nats(sums) -> float:
  """Returns the loss per target over all documents."""
  loss, targets = np.asarray(sums).sum(0)
  return float(loss / targets)


@functools.lru_cache(maxsize=4)
def times_drawn(documents: int, resamples: int, seed: int) -> np.ndarray:
  """Returns how often each sample holds each document: [resamples, documents].

  As floats, for BLAS; the same draws serve every interval of a page.
  """
  rng = np.random.default_rng(seed)
  even = np.full(documents, 1 / documents)
  return rng.multinomial(documents, even, size=resamples).astype(np.float64)


def resampled(
  losses, targets, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
  """Returns losses per target in samples of documents.

  Args:
    losses: summed losses of each document, [documents] each.
    targets: [documents], the number of targets.
    resamples: bootstrap samples.
    seed: of the draws.

  Returns:
    [resamples, len(losses)].
  """
  counts = times_drawn(len(targets), resamples, seed)
  return (counts @ np.transpose(losses)) / (counts @ targets)[:, None]


def interval(
  sums, baseline=None, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
  """Returns a loss, or a difference of losses, and its 95% interval.

  Documents are drawn with replacement, the same ones for both models (a paired
  bootstrap of a ratio of sums), so the interval covers the choice of
  documents and not that of seeds.

  Args:
    sums: [documents, 2] as `losses` returns it, or the mean over seeds.
    baseline: the same of the model to compare with, on the same targets.
    resamples: bootstrap samples.
    seed: of the draws.

  Returns:
    (value, low, high) in nats per target.

  Raises:
    ValueError: if the two have different targets.
  """
  sums = np.asarray(sums, np.float64)
  loss, targets = sums.T
  if baseline is not None:
    baseline = np.asarray(baseline, np.float64)
    if not np.array_equal(baseline[:, 1], targets):
      raise ValueError("the two models were scored on different targets")
    loss = loss - baseline[:, 0]
  drawn = resampled([loss], targets, resamples, seed)[:, 0]
  low, high = np.quantile(drawn, [0.025, 0.975])
  return float(loss.sum() / targets.sum()), float(low), float(high)

"""What tasks on tokens share: rows, losses, and perplexity."""

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from linformer_jax.attention import masks
from linformer_jax.data.text import special as special_lib
from linformer_jax.tasks import auxiliary
from linformer_jax.tasks.field import Field


def token_sums(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> dict[str, jax.Array]:
  """Returns loss, accuracy and weight sums over predicted tokens.

  Args:
    logits: float32 [..., V].
    targets: int [...].
    weights: float [...], 0 where there is nothing to predict.

  Returns:
    float32 scalars: 'loss', the summed negative log-likelihood in nats;
    'correct', the number of correct argmax predictions; 'weight', the number of
    targets.
  """
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  return {
    "loss": jnp.sum(losses * weights),
    "correct": jnp.sum(correct * weights),
    "weight": jnp.sum(weights),
  }


def metrics(sums: Mapping[str, float]) -> dict[str, float]:
  """Returns loss in nats, unclipped perplexity exp(loss), and accuracy."""
  weight = float(sums["weight"])
  loss = float(sums["loss"]) / weight
  return {
    "loss": loss,
    "perplexity": math.exp(loss) if loss < 700 else math.inf,
    "accuracy": float(sums["correct"]) / weight,
  }


def unigram_perplexity(
  counts: np.ndarray, batches: Iterable[Mapping[str, np.ndarray]]
) -> float:
  """Returns target perplexity under add-one smoothed training frequencies.

  A model that ignores context can do no better than about this.

  Args:
    counts: int64 [V], occurrences of each token in training.
    batches: the whole validation split, with 'targets' and 'weights'.

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


class TokenRows:
  """Mixin of tasks whose batches have 'tokens' [B, N] and their 'mask'.

  The task has `model`, `length` and `module()`.
  """

  def token_fields(self, masked: bool) -> dict[str, Field]:
    """Returns the tokens, with their padding mask if `masked`."""
    shape, axes = (self.length,), ("sequence",)
    fields = {"tokens": Field(shape, np.int32, axes)}
    if masked:
      fields["mask"] = Field(shape, np.bool_, axes)
    return fields

  def padded(self, tokens, pad: int) -> dict[str, np.ndarray]:
    """Returns a row of tokens, padded to length N, and its mask."""
    row = np.full(self.length, pad, np.int32)
    row[: len(tokens)] = tokens
    return {"tokens": row, "mask": np.arange(self.length) < len(tokens)}

  def empty(self) -> dict[str, np.ndarray]:
    """Returns a row with one real token, so no softmax is empty.

    The row weighs nothing, so the ids may be those of another tokenizer.
    """
    special = special_lib.TRAINED
    return self.padded([special.bos], special.pad)

  def init_arguments(self):
    """Returns tokens of the model's max_length."""
    return (jnp.zeros((1, self.model.max_length), jnp.int32),)

  def logits(self, variables, batch, key, **arguments) -> jax.Array:
    """Applies the module to a batch; a dropout key of None is deterministic."""
    mask = batch.get("mask")
    if "documents" in batch:
      mask = masks.Documents(batch["documents"])
    return auxiliary.apply(
      self.module(),
      variables,
      batch["tokens"],
      mask,
      **arguments,
      deterministic=key is None,
      rngs={} if key is None else {"dropout": key},
    )


class LanguageModeling(TokenRows):
  """Mixin of tasks that are scored by perplexity beside the unigram's."""

  headline: ClassVar[str] = "perplexity"
  number: ClassVar[str] = ".2f"
  scale: ClassVar[str] = "log"
  floor_name: ClassVar[str] = "unigram_perplexity"
  larger_is_better: ClassVar[bool] = False
  short: ClassVar[bool] = False  # training blocks are full

  def metrics(self, sums):
    """See `language.metrics`."""
    return metrics(sums)

  def floor(self, data, batches):
    """See `unigram_perplexity`."""
    return unigram_perplexity(data.token_counts, batches)

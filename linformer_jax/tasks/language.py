"""Token losses and perplexity of language modeling tasks."""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax


def token_sums(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> dict[str, jax.Array]:
  """Returns loss, accuracy and weight sums over predicted tokens.

  Args:
    logits: float32 [B, P, V].
    targets: int [B, P].
    weights: float [B, P], 0 where there is nothing to predict.

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

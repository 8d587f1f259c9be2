"""What language models share: predictions of tokens, and perplexity."""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax


def token_sums(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> dict[str, jax.Array]:
  """Sums over predicted tokens.

  Args:
    logits: float32 [B, P, V].
    targets: int [B, P].
    weights: float [B, P], 0 where there is nothing to predict.

  Returns:
    float32 scalars: 'loss', the summed negative log-likelihood in nats;
    'correct', the targets that scored highest; 'weight', the targets.
  """
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  return {
    "loss": jnp.sum(losses * weights),
    "correct": jnp.sum(correct * weights),
    "weight": jnp.sum(weights),
  }


def metrics(sums: Mapping[str, float]) -> dict[str, float]:
  """Loss in nats, perplexity exp(loss), never clipped, and accuracy."""
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
  """Perplexity of the targets under add-one smoothed training frequencies.

  A model that ignores the context can do no better than about this, so it is
  the line that a language model has to pass.

  Args:
    counts: int64 [V], how often each token occurs in training.
    batches: with 'targets' and 'weights'; the whole validation split.

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

"""What is trained: the loss as sums over a batch, so that parts add up."""

import jax.numpy as jnp
import optax

from linformer_jax import models
from linformer_jax.parallel import layout


def masked_lm_sums(model: models.MaskedLM, variables, batch, dropout_key=None):
  """Sums of masked-token prediction over a batch.

  Args:
    model: the module.
    variables: its parameters and constants.
    batch: 'tokens' int [B, N], 'positions' and 'targets' int [B, P], 'weights'
      float [B, P], and 'mask' bool [B, N] unless every token is real.
    dropout_key: None for no dropout.

  Returns:
    float32 scalars: 'loss' the summed negative log-likelihood in nats,
    'correct' the targets that scored highest, 'weight' how many there were.
  """
  names = ("positions", "targets", "weights")
  # Of weight 0, so that devices that divide a sequence divide these as well.
  short = -batch["positions"].shape[1] % layout.shards("sequence")
  positions, targets, weights = (
    jnp.pad(batch[name], [(0, 0), (0, short)]) for name in names
  )
  rngs = {} if dropout_key is None else {"dropout": dropout_key}
  logits = model.apply(
    variables,
    batch["tokens"],
    batch.get("mask"),
    positions,
    deterministic=dropout_key is None,
    rngs=rngs,
  )
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  return {
    "loss": jnp.sum(losses * weights),
    "correct": jnp.sum(correct * weights),
    "weight": jnp.sum(weights),
  }

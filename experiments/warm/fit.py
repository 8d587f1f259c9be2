"""Fits E and F to the attention of a trained softmax model, layer by layer."""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from linformer_jax import attention, models

UPDATES = 600
RATE = 1e-3  # the peak: 5% warmup, then cosine decay to zero


def heads(model: models.MaskedLM, variables, tokens) -> dict:
  """Returns what each layer's attention is made of.

  Args:
    model: with softmax attention and unrolled layers.
    variables: of the model.
    tokens: int [B, N].

  Returns:
    By path of the attention, (q, k, v), each [B, N, H, D] with its bias.
  """
  names = ("query", "key", "value")

  def is_wanted(module, method):
    return method == "__call__" and module.name in names

  _, found = model.apply(
    variables, tokens, mutable="intermediates", capture_intermediates=is_wanted
  )
  by_path = traverse_util.flatten_dict(found["intermediates"])
  # A path ends in (name, "__call__"), and holds a tuple of one call.
  layers = dict.fromkeys(path[:-2] for path in by_path)
  return {
    path: tuple(by_path[(*path, name, "__call__")][0] for name in names)
    for path in layers
  }


def errors(weights, qkv, biases) -> jax.Array:
  """Returns the mean square error over that of writing zero.

  The output of a head is softmax(Q (E K)^T / sqrt(D)) F V in place of
  softmax(Q K^T / sqrt(D)) V. Biases of keys and values come after E and F.

  Args:
    weights: E and F, each [H, K, N].
    qkv: see `heads`.
    biases: of keys and values, each [H, D].

  Returns:
    A scalar.
  """
  q, k, v = qkv

  exact = attention.projected_attention(q, k, v)
  slots = [
    jnp.einsum("hkn,bnhd->bkhd", by, x - bias) + bias
    for by, x, bias in zip(weights, (k, v), biases, strict=True)
  ]
  wrong = attention.projected_attention(q, *slots) - exact
  return jnp.mean(wrong**2) / jnp.mean(exact**2)


def fit(model, variables, start: dict, batches):
  """Returns E and F with the least error that Adam finds, and the errors.

  Args:
    model: see `heads`.
    variables: of the model.
    start: by path of an attention, its first (E, F), each [H, K, N].
    batches: `UPDATES` batches of tokens, int [B, N], and one more for errors.

  Returns:
    The fitted (E, F) by path; and the mean square error over that of zero on
    the last batch, of the start and of the fit, by path.
  """
  params = variables["params"]
  biases = {}
  for path in start:
    here = params
    for name in path:
      here = here[name]
    biases[path] = [
      here[name]["bias"].reshape(start[path][0].shape[0], -1)
      for name in ("key", "value")
    ]
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, RATE, UPDATES // 20, UPDATES
  )
  optimizer = optax.adam(schedule)

  def each(weights, tokens):
    found = heads(model, variables, tokens)
    return {p: errors(weights[p], found[p], biases[p]) for p in start}

  @jax.jit
  def update(weights, state, tokens):
    gradient = jax.grad(lambda w: sum(each(w, tokens).values()))(weights)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(weights, change), state

  weights, state = start, optimizer.init(start)
  for _, tokens in zip(range(UPDATES), batches, strict=False):
    weights, state = update(weights, state, tokens)
  tokens = next(iter(batches))
  told = {
    "/".join(path): [float(before), float(after)]
    for (path, before), after in zip(
      jax.jit(each)(start, tokens).items(),
      jax.jit(each)(weights, tokens).values(),
      strict=True,
    )
  }
  return weights, told


def projections(params) -> dict:
  """Returns (E, F) of each Linformer layer by path of its attention."""
  flat = traverse_util.flatten_dict(params)
  paths = dict.fromkeys(
    path[:-2] for path in flat if path[-2:-1] == ("key_projection",)
  )
  return {
    path: tuple(
      flat[(*path, name, "kernel")]
      for name in ("key_projection", "value_projection")
    )
    for path in paths
  }


def with_projections(params, weights: dict):
  """Returns parameters with the (E, F) of some layers replaced."""
  flat = traverse_util.flatten_dict(params)
  for path, pair in weights.items():
    for name, by in zip(
      ("key_projection", "value_projection"), pair, strict=True
    ):
      flat[(*path, name, "kernel")] = by
  return traverse_util.unflatten_dict(flat)

"""Queries, keys and values of MiniLM-L6's heads on real text."""

import argparse
import functools

import jax
import numpy as np

from experiments.spectrum import subjects
from linformer_jax import models
from linformer_jax.tools import spectrum

# From the highest to the lowest rank of P; see experiments/spectrum.
LAYERS = (1, 3, 5)
BLOCKS = 256  # of text
# Blocks to measure on, to choose between a fit and its start, and to fit on.
PARTS = (slice(16), slice(16, 32), slice(32, BLOCKS))
FILES = {
  "weights": "MiniLM-L6's model.safetensors",
  "vocab": "vocab.txt of the weights",
  "text": "globs of text, or JSON lines with `text`",
}
_MAPS = ("query", "key", "value")


def layer_of(values: str) -> int | None:
  """Returns the layer of a setting's `values`, or None if it is random."""
  name, _, layer = values.partition("_layer_")
  return int(layer) if name == "minilm" else None


def maps(config, variables, tokens) -> dict[int, tuple]:
  """Returns q, k and v [B, H, N, D] of each layer of an encoder."""
  config, variables = spectrum.layer_by_layer(config, variables)
  _, seen = models.TokenEncoder(config).apply(
    variables,
    tokens,
    capture_intermediates=lambda module, method: (
      module.name in _MAPS and method == "__call__"
    ),
    mutable="intermediates",
  )
  found = {}
  for i in range(config.num_layers):
    outputs = seen["intermediates"][f"layer_{i}"]["block"]["attention"]
    found[i] = tuple(
      outputs[name]["__call__"][0].swapaxes(1, 2) for name in _MAPS
    )
  return found


@functools.cache
def load(weights: str, vocab: str, text: str) -> tuple[dict, dict]:
  """Runs the encoder on blocks of text.

  Returns:
    q, k and v [BLOCKS, H, N, D] by layer of `LAYERS`, and the digests of the
    weights and the tokens.

  Raises:
    ValueError: for files that are missing or do not fit each other.
  """
  if not weights:
    raise ValueError("MiniLM is not measured yet and needs --weights")
  given = argparse.Namespace(
    **{"weights": weights, "vocab": vocab, "text": text, "blocks": BLOCKS},
    **dict.fromkeys(("heads", "cased", "length", "name", "text_name")),
  )
  subject = subjects.of_weights(given)

  @jax.jit
  def run(tokens):
    found = maps(subject.config, subject.variables, tokens)
    return {layer: found[layer] for layer in LAYERS}

  parts = [
    jax.tree.map(np.asarray, run(subject.tokens[i : i + 4]))
    for i in range(0, BLOCKS, 4)
  ]
  found = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  digests = ("weights_sha256", "tokens_sha256")
  return found, {name: subject.identity()[name] for name in digests}


def heads(found: tuple, part: slice) -> tuple:
  """Returns q, k and v [blocks * H, N, D] of some blocks."""
  return tuple(x[part].reshape(-1, *x.shape[2:]) for x in found)


def draw(key, heads: tuple, number: int, queries: int) -> tuple:
  """Draws heads with replacement, and queries without.

  Args:
    key: of the draw.
    heads: q, k and v [., N, D].
    number: of heads.
    queries: of each head, the same positions in all.

  Returns:
    q [number, queries, D], k and v [number, N, D].
  """
  head_key, query_key = jax.random.split(key)
  chosen = jax.random.randint(head_key, (number,), 0, len(heads[0]))
  q, k, v = (x[chosen] for x in heads)
  rows = jax.random.permutation(query_key, q.shape[1])[:queries]
  return q[:, rows], k, v

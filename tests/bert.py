"""BERT written out in numpy and float64, and random weights for it."""

import math

import numpy as np

from tests import arrays

V, N, L, M, H, F = 23, 12, 2, 8, 2, 20
D = M // H
# Sums that one output went through, layer by layer.
LENGTHS = (3 * M,) + L * (M, D, N, M, 3 * M, M, F, 3 * M)


TYPES = "embeddings.token_type_embeddings.weight"


def tensors(prefix="", rows=N, types=2):
  """Random tensors by BERT's names, weights of dense maps [out, in]."""
  shapes = {
    "embeddings.word_embeddings.weight": (V, M),
    "embeddings.position_embeddings.weight": (rows, M),
    TYPES: (types, M),
    "embeddings.LayerNorm.weight": (M,),
    "embeddings.LayerNorm.bias": (M,),
  }
  for i in range(L):
    start = f"encoder.layer.{i}."
    for name, size in {
      "attention.self.query": (M, M),
      "attention.self.key": (M, M),
      "attention.self.value": (M, M),
      "attention.output.dense": (M, M),
      "intermediate.dense": (F, M),
      "output.dense": (M, F),
      "attention.output.LayerNorm": (M,),
      "output.LayerNorm": (M,),
    }.items():
      shapes[f"{start}{name}.weight"] = size
      shapes[f"{start}{name}.bias"] = size[:1]
  return {
    prefix + name: arrays.draw(*shape, seed=i)
    for i, (name, shape) in enumerate(shapes.items())
  }


# Endings of BERT's names, and what they are in other releases.
TENSORFLOW = {"LayerNorm.weight": "LayerNorm.gamma"}
TENSORFLOW |= {"LayerNorm.bias": "LayerNorm.beta"}
DISTILBERT = {
  "encoder.layer.": "transformer.layer.",
  "attention.self.query.": "attention.q_lin.",
  "attention.self.key.": "attention.k_lin.",
  "attention.self.value.": "attention.v_lin.",
  "attention.output.dense.": "attention.out_lin.",
  "attention.output.LayerNorm.": "sa_layer_norm.",
  "intermediate.dense.": "ffn.lin1.",
  "output.dense.": "ffn.lin2.",
  "output.LayerNorm.": "output_layer_norm.",
}


def renamed(weights, names, prefix=""):
  """The same tensors by the names of another release."""
  found = {}
  for name, tensor in weights.items():
    for ours, theirs in names.items():
      name = name.replace(ours, theirs)
    found[prefix + name] = tensor
  return found


def distilbert(prefix=""):
  """Random tensors by DistilBERT's names, and the same by BERT's."""
  weights = tensors()
  del weights[TYPES]
  return renamed(weights, DISTILBERT, prefix), weights


def _norm(x, weight, bias, epsilon):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def _gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def forward(weights, tokens, epsilon, offset=0):
  """Tokens [B, N] to hidden [B, N, M] and the attention of each layer."""
  w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}

  def dense(x, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

  def norm(x, name):
    return _norm(x, w[f"{name}.weight"], w[f"{name}.bias"], epsilon)

  batch, length = tokens.shape
  x = w["embeddings.word_embeddings.weight"][tokens]
  x = x + w["embeddings.position_embeddings.weight"][offset : offset + length]
  if TYPES in w:
    x = x + w[TYPES][0]
  x = norm(x, "embeddings.LayerNorm")
  found = []
  for i in range(L):
    name = f"encoder.layer.{i}."
    q, k, v = (
      dense(x, f"{name}attention.self.{part}")
      .reshape(batch, length, H, D)
      .swapaxes(1, 2)
      for part in ("query", "key", "value")
    )
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    found.append(p)
    attended = (p @ v).swapaxes(1, 2).reshape(batch, length, M)
    attended = dense(attended, f"{name}attention.output.dense")
    x = norm(x + attended, f"{name}attention.output.LayerNorm")
    y = dense(
      _gelu(dense(x, f"{name}intermediate.dense")), f"{name}output.dense"
    )
    x = norm(x + y, f"{name}output.LayerNorm")
  return x, found

"""Weights of BERT and RoBERTa, from safetensors to variables of an `Encoder`.

Sizes are read from the tensors. What they do not tell, heads and the epsilon of
the layer norms, is in the config.json that lies beside such a file, or is said
by the caller.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from linformer_jax import model_config

# Their names of the parts of a layer, by ours.
_DENSE = {
  ("attention", "query"): "attention.self.query",
  ("attention", "key"): "attention.self.key",
  ("attention", "value"): "attention.self.value",
  ("attention", "out"): "attention.output.dense",
  ("mlp_in",): "intermediate.dense",
  ("mlp_out",): "output.dense",
}
_NORM = {
  ("attention_norm",): "attention.output.LayerNorm",
  ("mlp_norm",): "output.LayerNorm",
}
# Heads over the encoder, and a count from 0: no part of an encoder.
_LEFT_OUT = (
  "pooler.",
  "cls.",
  "lm_head.",
  "classifier.",
  "embeddings.position_ids",
)
_EPSILON = {"bert": 1e-12, "roberta": 1e-5}
# RoBERTa counts positions from the one after <pad>, whose id is 1.
_OFFSET = {"bert": 0, "roberta": 2}
# What config.json has to say, where it says it.
_EXPECTED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}


def load(
  path: str | os.PathLike[str], num_heads: int | None = None
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Reads a safetensors file of BERT's or RoBERTa's architecture.

  Args:
    path: the file.
    num_heads: H, or None for that of config.json beside the file.

  Returns:
    (config, variables) of `model.Encoder`, as `convert`.

  Raises:
    ValueError: in one line, for a file that cannot be read, that lacks a
      tensor, or that is of another architecture.
  """
  path = pathlib.Path(path)
  try:
    tensors = safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"cannot read the weights {path}: {error}") from error
  settings = _settings(path.with_name("config.json"))
  if num_heads is None:
    num_heads = settings.get("num_attention_heads")
  if num_heads is None:
    raise ValueError(
      f"the number of heads is not in {path}, and no config.json beside it "
      "tells it: give it"
    )
  kind = settings.get("model_type")
  if kind is None:
    prefixed = any(name.startswith("roberta.") for name in tensors)
    kind = "roberta" if prefixed else "bert"
  epsilon = settings.get("layer_norm_eps")
  try:
    return convert(tensors, num_heads, kind, epsilon)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _settings(path):
  """The config.json beside weights, or nothing where there is none."""
  if not path.exists():
    return {}
  try:
    settings = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f"cannot read {path}: {error}") from error
  if not isinstance(settings, dict):
    raise ValueError(f"{path} holds no settings")
  for name, expected in _EXPECTED.items():
    if settings.get(name, expected) != expected:
      raise ValueError(
        f"{path}: {name} is {settings[name]!r}; only {expected!r} is known here"
      )
  return settings


class _Tensors:
  """Tensors by their names, each of which has to be taken once."""

  def __init__(self, tensors):
    self._left = {}
    for name, tensor in tensors.items():
      for prefix in ("bert.", "roberta."):
        name = name.removeprefix(prefix)
      if not name.startswith(_LEFT_OUT):
        self._left[name] = tensor

  def shape(self, name, rank):
    """The shape of a tensor, to read sizes from."""
    if name not in self._left:
      raise ValueError(f"there is no tensor {name}")
    shape = self._left[name].shape
    if len(shape) != rank:
      raise ValueError(f"{name} has shape {shape}, not {rank} axes")
    return shape

  def layers(self) -> int:
    """How many layers have tensors here."""
    start = "encoder.layer."
    numbers = {
      int(name.removeprefix(start).split(".")[0])
      for name in self._left
      if name.startswith(start)
    }
    if not numbers:
      raise ValueError(f"there is no tensor {start}0.*")
    return max(numbers) + 1

  def take(self, name, *shape) -> np.ndarray:
    """A tensor as float32."""
    found = self.shape(name, len(shape))
    if found != shape:
      raise ValueError(f"{name} has shape {found}, not {shape}")
    return np.asarray(self._left.pop(name), np.float32)

  def dense(self, name, inputs, outputs):
    """A torch map [out, in] as a kernel [in, out] and a bias."""
    weight = self.take(f"{name}.weight", outputs, inputs)
    return {"kernel": weight.T, "bias": self.take(f"{name}.bias", outputs)}

  def norm(self, name, width):
    """A layer norm."""
    scale = self.take(f"{name}.weight", width)
    return {"scale": scale, "bias": self.take(f"{name}.bias", width)}

  def check_empty(self):
    """Raises where something has no place in the encoder."""
    if self._left:
      raise ValueError(
        f"{len(self._left)} tensors are not known here: "
        f"{', '.join(sorted(self._left)[:3])}"
      )


def _layer(tensors, start, width, mlp):
  """Parameters of one `model.Block`."""
  sizes = {("mlp_in",): (width, mlp), ("mlp_out",): (mlp, width)}
  found = {"attention": {}}
  for path, name in _DENSE.items():
    place = found["attention"] if len(path) > 1 else found
    inputs, outputs = sizes.get(path, (width, width))
    place[path[-1]] = tensors.dense(start + name, inputs, outputs)
  for (name,), theirs in _NORM.items():
    found[name] = tensors.norm(start + theirs, width)
  return found


def convert(
  tensors: dict[str, np.ndarray],
  num_heads: int,
  kind: str = "bert",
  norm_epsilon: float | None = None,
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Tensors of BERT (arXiv 1810.04805) or RoBERTa to an encoder of ours.

  The embedding of token type 0, that of a single text, is added to those of the
  positions. Names may begin with 'bert.' or 'roberta.'. The pooler and heads
  over the encoder are left out.

  Args:
    tensors: by name, weights of dense maps [out, in].
    num_heads: H.
    kind: 'bert' or 'roberta', which leaves two rows of positions unused.
    norm_epsilon: of the layer norms; None for what `kind` is known to have.

  Returns:
    The config, and {'params': ...} of `model.Encoder`, layers not in a loop.

  Raises:
    ValueError: for a kind, name or shape that is not BERT's, or a missing one.
  """
  if kind not in _EPSILON:
    raise ValueError(f"model type {kind!r} is not one of {', '.join(_EPSILON)}")
  tensors = _Tensors(tensors)
  words = "embeddings.word_embeddings.weight"
  table = "embeddings.position_embeddings.weight"
  types = "embeddings.token_type_embeddings.weight"
  vocab_size, width = tensors.shape(words, 2)
  rows, _ = tensors.shape(table, 2)
  count, _ = tensors.shape(types, 2)
  depth = tensors.layers()
  mlp, _ = tensors.shape("encoder.layer.0.intermediate.dense.weight", 2)
  config = model_config.ModelConfig(
    vocab_size=vocab_size,
    max_length=rows - _OFFSET[kind],
    num_layers=depth,
    embed_dim=width,
    num_heads=num_heads,
    mlp_dim=mlp,
    attention="softmax",
    norm_position="post",
    position_offset=_OFFSET[kind],
    norm_epsilon=norm_epsilon or _EPSILON[kind],
    scan_layers=False,
  )
  positions = tensors.take(table, rows, width)
  params = {
    "embed": {
      "tokens": {"embedding": tensors.take(words, vocab_size, width)},
      "positions": positions + tensors.take(types, count, width)[0],
    },
    "norm": tensors.norm("embeddings.LayerNorm", width),
  }
  for i in range(depth):
    start = f"encoder.layer.{i}."
    params[f"layer_{i}"] = {"block": _layer(tensors, start, width, mlp)}
  tensors.check_empty()
  return config, {"params": params}

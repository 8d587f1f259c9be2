"""Converts BERT-family tensors to the variables of a `TokenEncoder`.

BERT, RoBERTa (XLM-RoBERTa, CamemBERT) and DistilBERT share one architecture
with different tensor names; MiniLM is a BERT. Sizes are read from the tensors.
"""

import dataclasses
import re
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from linformer_jax import attention
from linformer_jax.models import config as model_config

# Tensor names. Their axes: V vocab, P positions, T token types, M embed, F mlp.
# Dense kernels are [out, in], as in torch.
_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"
_NORM = "embeddings.LayerNorm"
# Parts of a `models.Block`, and the axes of their weights.
_PARTS = {
  ("attention", "query"): "MM",
  ("attention", "key"): "MM",
  ("attention", "value"): "MM",
  ("attention", "out"): "MM",
  ("attention_norm",): "M",
  ("mlp_in",): "FM",
  ("mlp_out",): "MF",
  ("mlp_norm",): "M",
}


@dataclasses.dataclass(frozen=True)
class _Kind:
  """What differs between model types.

  Attributes:
    epsilon: epsilon of the layer norms.
    offset: unused rows at the start of the position table. RoBERTa counts
      positions from one past the id of <pad>, 1.
    types: whether there are token type embeddings.
    layers: name of the list of layers.
    parts: names of the `_PARTS` within a layer.
  """

  epsilon: float = 1e-12
  offset: int = 0
  types: bool = True
  layers: str = "encoder.layer"
  parts: tuple[str, ...] = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
  )


_ROBERTA = _Kind(epsilon=1e-5, offset=2)
_DISTILBERT = _Kind(
  types=False,
  layers="transformer.layer",
  parts=(
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
  ),
)
_KINDS = {
  "bert": _Kind(),
  "roberta": _ROBERTA,
  "xlm-roberta": _ROBERTA,
  "camembert": _ROBERTA,
  "distilbert": _DISTILBERT,
}
# Output heads and buffers, which are not part of the encoder.
_LEFT_OUT = (
  "pooler.",
  "cls.",
  "lm_head.",
  "classifier.",
  "pre_classifier.",
  "qa_outputs.",
  "vocab_transform.",
  "vocab_layer_norm.",
  "vocab_projector.",
  "embeddings.position_ids",
  "embeddings.token_type_ids",
)


def _encoder(tensors):
  """Returns the encoder's tensors without their prefix, and the prefix."""
  ends = [name for name in tensors if name.endswith(_WORDS)]
  if len(ends) != 1:
    found = ", ".join(sorted(ends or tensors)[:3])
    raise ValueError(
      f"there is {'more than one' if ends else 'no'} tensor {_WORDS}: this is "
      f"not one encoder of BERT's architecture, but has {found}"
    )
  prefix = ends[0].removesuffix(_WORDS)
  found = {}
  for name, tensor in tensors.items():
    short = name.removeprefix(prefix)
    if not name.startswith(prefix) or short.startswith(_LEFT_OUT):
      continue
    # TensorFlow's names, which the first releases of BERT kept.
    short = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", short)
    short = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", short)
    found[short] = tensor
  return found, prefix


def _kind_of(tensors, prefix, names):
  """Infers the model type from tensor names if no config.json gives it."""
  if any(name.startswith(_DISTILBERT.layers) for name in tensors):
    return "distilbert"
  if "roberta" in prefix or any(x.startswith("lm_head.") for x in names):
    return "roberta"
  # BERT has two token types and RoBERTa has one, if no prefix tells.
  one_type = _TYPES in tensors and len(tensors[_TYPES]) == 1
  return "roberta" if one_type and not prefix.endswith("bert.") else "bert"


def _axes(kind, depth):
  """Returns the axis letters of each tensor, by name."""
  axes = {_WORDS: "VM", _POSITIONS: "PM"}
  if kind.types:
    axes[_TYPES] = "TM"
  axes |= {f"{_NORM}.weight": "M", f"{_NORM}.bias": "M"}
  for i in range(depth):
    for part, letters in zip(kind.parts, _PARTS.values(), strict=True):
      start = f"{kind.layers}.{i}.{part}"
      axes |= {f"{start}.weight": letters, f"{start}.bias": letters[0]}
  return axes


def _check(tensors, axes, prefix):
  """Returns sizes by letter; raises unless the tensors match `axes`."""
  missing = [prefix + name for name in axes if name not in tensors]
  unknown = sorted(prefix + name for name in tensors if name not in axes)
  faults = []
  if missing:
    faults.append(f"there is no tensor {missing[0]}")
  if unknown:
    faults.append(
      f"{len(unknown)} tensors are not known here: {', '.join(unknown[:3])}"
    )
  if faults:
    raise ValueError("; ".join(faults))
  sizes = {}
  for name, letters in axes.items():
    shape, dtype = tensors[name].shape, tensors[name].dtype
    name = prefix + name
    if len(shape) != len(letters):
      raise ValueError(f"{name} has shape {shape}, not {len(letters)} axes")
    if not jnp.issubdtype(dtype, np.floating):
      raise ValueError(f"{name} is {dtype}; quantized weights are not read")
    for letter, size in zip(letters, shape, strict=True):
      sizes.setdefault(letter, size)
    want = tuple(sizes[letter] for letter in letters)
    if shape != want:
      raise ValueError(f"{name} has shape {shape}, not {want}")
  return sizes


def convert(
  tensors: dict[str, np.ndarray],
  num_heads: int,
  kind: str | None = None,
  norm_epsilon: float | None = None,
  position_offset: int | None = None,
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Converts tensors of BERT, RoBERTa or DistilBERT to a `TokenEncoder`.

  See arXiv 1810.04805, 1907.11692 and 1910.01108. BERT's token types become
  segments; RoBERTa's only one is added to the position embeddings. Names may
  have a prefix ('bert.', 'roberta.', '0.auto_model.'). The pooler and output
  heads are dropped. For texts padded on the right, outputs at real tokens match
  the original model.

  Args:
    tensors: float tensors by name; dense kernels are [out, in].
    num_heads: H.
    kind: 'bert', 'roberta', 'xlm-roberta', 'camembert' or 'distilbert'; None
      infers it from the names.
    norm_epsilon: epsilon of the layer norms; None for the default of `kind`.
    position_offset: unused rows at the start of RoBERTa's position table; None
      for 2.

  Returns:
    The config, and {'params': ...} of a `TokenEncoder` without scanned layers.

  Raises:
    ValueError: for an unsupported kind, name, shape or dtype, or a missing
      tensor.
  """
  names = list(tensors)
  if kind is not None and kind not in list(_KINDS):  # of any type
    raise ValueError(
      f"model type {kind!r:.60} is not one of {', '.join(_KINDS)}"
    )
  tensors, prefix = _encoder(tensors)
  kind = _KINDS[kind or _kind_of(tensors, prefix, names)]
  layer = re.compile(re.escape(kind.layers) + r"\.(\d+)\.")
  depth = len({x[1] for x in map(layer.match, tensors) if x}) or 1
  axes = _axes(kind, depth)
  sizes = _check(tensors, axes, prefix)
  offset = kind.offset
  if offset and position_offset is not None:
    offset = position_offset
  config = model_config.ModelConfig(
    vocab_size=sizes["V"],
    max_length=sizes["P"] - offset,
    num_layers=depth,
    embed_dim=sizes["M"],
    num_heads=num_heads,
    mlp_dim=sizes["F"],
    attention=attention.SoftmaxConfig(),
    num_segments=0 if sizes.get("T", 1) == 1 else sizes["T"],
    norm_position="post",
    position_offset=offset,
    norm_epsilon=kind.epsilon if norm_epsilon is None else norm_epsilon,
    scan_layers=False,
  )

  def take(name):
    return np.asarray(tensors[name], np.float32)

  positions, segments = take(_POSITIONS), {}
  if sizes.get("T", 1) > 1:
    segments["embed", "segments", "embedding"] = take(_TYPES)
  elif kind.types:  # RoBERTa's only one
    positions = positions + take(_TYPES).sum(0)
  params = {
    ("embed", "tokens", "embedding"): take(_WORDS),
    ("embed", "positions"): positions,
    ("norm", "scale"): take(f"{_NORM}.weight"),
    ("norm", "bias"): take(f"{_NORM}.bias"),
    **segments,
  }
  for i in range(depth):
    for (part, letters), name in zip(_PARTS.items(), kind.parts, strict=True):
      ours = (f"layer_{i}", "block", *part)
      theirs = f"{kind.layers}.{i}.{name}"
      weight = "kernel" if len(letters) == 2 else "scale"
      params[*ours, weight] = take(f"{theirs}.weight").T
      params[*ours, "bias"] = take(f"{theirs}.bias")
  return config, {"params": flax.traverse_util.unflatten_dict(params)}

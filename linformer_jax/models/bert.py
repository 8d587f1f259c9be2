"""Converts BERT-family tensors to the variables of a model here, and back.

BERT, RoBERTa (XLM-RoBERTa, CamemBERT) and DistilBERT share one architecture
with different tensor names; MiniLM is a BERT. Sizes are read from the tensors.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from linformer_jax import attention
from linformer_jax.models import bert_names as names
from linformer_jax.models import config as model_config


def _encoder(tensors):
  """Returns the encoder's tensors without their prefix, and the prefix."""
  ends = [name for name in tensors if name.endswith(names.WORDS)]
  if len(ends) != 1:
    found = ", ".join(sorted(ends or tensors)[:3])
    raise ValueError(
      f"there is {'more than one' if ends else 'no'} tensor {names.WORDS}: "
      f"this is not one encoder of BERT's architecture, but has {found}"
    )
  prefix = ends[0].removesuffix(names.WORDS)
  found = {}
  for name, tensor in tensors.items():
    short = name.removeprefix(prefix)
    if not name.startswith(prefix) or short.startswith(names.LEFT_OUT):
      continue
    found[_modern(short)] = tensor
  return found, prefix


def _modern(name):
  """Replaces TensorFlow's names, which the first releases of BERT kept."""
  name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
  return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _kind_of(tensors, prefix, given):
  """Infers the model type from tensor names if no config.json gives it."""
  if any(name.startswith(names.DISTILBERT.layers) for name in tensors):
    return "distilbert"
  if "roberta" in prefix or any(x.startswith("lm_head.") for x in given):
    return "roberta"
  # BERT has two token types and RoBERTa has one, if no prefix tells.
  one_type = names.TYPES in tensors and len(tensors[names.TYPES]) == 1
  return "roberta" if one_type and not prefix.endswith("bert.") else "bert"


def _check(tensors, axes, prefix, sizes=None):
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
  sizes = dict(sizes or {})
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


def _head_tensors(tensors, prefix, kind, head, sizes):
  """Returns the parameters of a head by path, and checks their shapes."""
  if head not in names.HEADS:
    raise ValueError(f"head {head!r} is not one of {', '.join(names.HEADS)}")
  if head == names.CLASSIFIER and not kind.classifier:
    raise ValueError(
      "DistilBERT's classification head has a ReLU, and the one here a tanh: "
      "take the encoder alone, and train a head"
    )
  # Heads stand beside the encoder, but for BERT's pooler, which is part of it.
  starts = prefix, re.sub(r"[^.]+\.$", "", prefix)
  there = {_modern(name): tensor for name, tensor in tensors.items()}

  def full(name):
    """The name of a tensor with the prefix that it has."""
    return next((x + name for x in starts if x + name in there), name)

  axes, paths = {}, {}
  for ours, theirs, letters in names.head(kind, head):
    name = full(theirs)
    if name not in there:
      raise ValueError(
        f"there is no tensor {name}: these weights are not of a {head}"
      )
    axes[name], paths[name] = letters, ours
  _check({name: there[name] for name in axes}, axes, "", sizes)
  if head == names.LM:
    copy, words = full(kind.tied), full(names.WORDS)
    if copy in there and not np.array_equal(
      np.asarray(there[copy]), np.asarray(there[words])
    ):
      raise ValueError(
        f"{copy} is not {words}, which is both in the model here"
      )
  return {ours: _ours(there[name], axes[name]) for name, ours in paths.items()}


def _ours(tensor, letters):
  """Returns a tensor as float32; kernels are [in, out] here, not [out, in]."""
  tensor = np.asarray(tensor, np.float32)
  return tensor.T if len(letters) == 2 else tensor


def check_kind(kind: str | None):
  """Raises a ValueError for a model type that `convert` does not know."""
  if kind is not None and kind not in list(names.KINDS):  # of any type
    raise ValueError(
      f"model type {kind!r:.60} is not one of {', '.join(names.KINDS)}"
    )


def convert(
  tensors: Mapping[str, np.ndarray],
  num_heads: int,
  kind: str | None = None,
  norm_epsilon: float | None = None,
  position_offset: int | None = None,
  head: str | None = None,
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Converts tensors of BERT, RoBERTa or DistilBERT to a model here.

  See arXiv 1810.04805, 1907.11692 and 1910.01108. BERT's token types become
  segments; RoBERTa's only one is added to the position embeddings. Names may
  have a prefix ('bert.', 'roberta.', '0.auto_model.'). Other heads are dropped.
  For texts padded on the right, outputs at real tokens match the original
  model.

  Args:
    tensors: float tensors by name; dense kernels are [out, in].
    num_heads: H.
    kind: 'bert', 'roberta', 'xlm-roberta', 'camembert' or 'distilbert'; None
      infers it from the names.
    norm_epsilon: epsilon of the layer norms; None for the default of `kind`.
    position_offset: unused rows at the start of RoBERTa's position table; None
      for 2.
    head: 'MaskedLM' or 'Classifier' to convert that head too; BERT's
      pooler is part of the latter.

  Returns:
    The config, and {'params': ...} without scanned layers of a `TokenEncoder`,
    or of a `MaskedLM` or a `Classifier`, whose number of classes is that of
    `head_out`.

  Raises:
    ValueError: for an unsupported kind, name, shape or dtype, or a missing
      tensor.
  """
  check_kind(kind)
  given = list(tensors)
  everything = tensors
  tensors, prefix = _encoder(tensors)
  kind = names.KINDS[kind or _kind_of(tensors, prefix, given)]
  layer = re.compile(re.escape(kind.layers) + r"\.(\d+)\.")
  depth = len({x[1] for x in map(layer.match, tensors) if x}) or 1
  axes = names.encoder_axes(kind, depth)
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

  positions, segments = take(names.POSITIONS), {}
  if sizes.get("T", 1) > 1:
    segments["embed", "segments", "embedding"] = take(names.TYPES)
  elif kind.types:  # RoBERTa's only one
    positions = positions + take(names.TYPES).sum(0)
  params = {
    ("embed", "tokens", "embedding"): take(names.WORDS),
    ("embed", "positions"): positions,
    ("norm", "scale"): take(f"{names.NORM}.weight"),
    ("norm", "bias"): take(f"{names.NORM}.bias"),
    **segments,
  }
  for ours, theirs, letters in names.layers(kind, depth):
    params[ours] = _ours(tensors[theirs], letters)
  if head is not None:
    params = {("encoder", *path): leaf for path, leaf in params.items()}
    params |= _head_tensors(everything, prefix, kind, head, sizes)
  return config, {"params": flax.traverse_util.unflatten_dict(params)}


def tensors_of(
  config: model_config.ModelConfig,
  params: Mapping,
  head: str | None = None,
  position_offset: int = names.ROBERTA.offset,
) -> dict[str, np.ndarray]:
  """Returns the parameters of a model by RoBERTa's names.

  Args:
    config: config of a post-norm model with softmax attention.
    params: of a `TokenEncoder`, or of a model with `head`, without scanned
      layers.
    head: as for `convert`.
    position_offset: unused rows to put before the positions.

  Returns:
    Tensors of a RobertaModel, RobertaForMaskedLM or
    RobertaForSequenceClassification.

  Raises:
    ValueError: if RoBERTa's architecture does not have what the model has.
  """
  _check_is_roberta(config)
  prefix = "roberta." if head else ""
  encoder = params["encoder"] if head else params
  embed = encoder["embed"]
  positions = np.asarray(embed["positions"])[config.position_offset :]
  unused = np.zeros((position_offset, config.embed_dim), positions.dtype)
  types = np.zeros((1, config.embed_dim), positions.dtype)
  if config.num_segments:
    types = np.asarray(embed["segments"]["embedding"])
  found = {
    names.WORDS: np.asarray(embed["tokens"]["embedding"]),
    names.POSITIONS: np.concatenate([unused, positions]),
    names.TYPES: types,
    f"{names.NORM}.weight": np.asarray(encoder["norm"]["scale"]),
    f"{names.NORM}.bias": np.asarray(encoder["norm"]["bias"]),
  }

  def add(tree, pairs):
    leaves = flax.traverse_util.flatten_dict(tree)
    for ours, theirs, letters in pairs:
      leaf = np.asarray(leaves[ours])
      found[theirs] = leaf.T if len(letters) == 2 else leaf

  add(encoder, names.layers(names.ROBERTA, config.num_layers))
  found = {prefix + name: tensor for name, tensor in found.items()}
  if head:
    add(params, names.head(names.ROBERTA, head))
  return {name: np.ascontiguousarray(x) for name, x in found.items()}


def is_roberta(config: model_config.ModelConfig) -> bool:
  """Returns whether `tensors_of` can write a model."""
  try:
    _check_is_roberta(config)
  except ValueError:
    return False
  return True


def _check_is_roberta(config):
  """Raises a ValueError unless a model has RoBERTa's architecture."""
  kinds = {layer.name for layer in config.layers}
  if others := sorted(kinds - {attention.SoftmaxConfig.name}):
    raise ValueError(
      f"RoBERTa has softmax attention, and this model {', '.join(others)}"
    )
  if config.rotary:
    raise ValueError("RoBERTa has a table of positions, and this model none")
  if config.norm_position != "post":
    raise ValueError(
      "RoBERTa has its layer norms after each sublayer, and this model before "
      "it (model.norm_position=pre)"
    )

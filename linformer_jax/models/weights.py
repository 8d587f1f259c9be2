"""Reads BERT-family weights from safetensors, and writes RoBERTa's.

Sizes are read from the tensors. The number of heads and the epsilon of the
layer norms come from the config.json next to the file, or from the caller.
"""

import json
import os
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from linformer_jax.models import bert, layers
from linformer_jax.models import bert_names as names
from linformer_jax.models import config as model_config
from linformer_jax.run import paths

convert = bert.convert

# Required values of config.json fields, if present.
_EXPECTED = {
  "hidden_act": "gelu",
  "activation": "gelu",
  "position_embedding_type": "absolute",
  "is_decoder": False,
}
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_INDEX = "model.safetensors.index.json"
_PART = re.compile(r"-\d+-of-\d+\.safetensors$")
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_SAVE_AGAIN = (
  "save it as safetensors, in Python with transformers: "
  "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
)


def load(
  path: str | os.PathLike[str],
  num_heads: int | None = None,
  head: str | None = None,
) -> tuple[model_config.ModelConfig, dict[str, Any]]:
  """Reads BERT-family weights from safetensors; see `convert`.

  Args:
    path: the file, or the folder that holds its model.safetensors or, if
      sharded, its model.safetensors.index.json.
    num_heads: H, or None to read it from the config.json next to the file.
    head: None, 'MaskedLM' or 'Classifier'; see `convert`.

  Returns:
    (config, variables) of a `TokenEncoder`, or of the model with that head.

  Raises:
    ValueError: in one line, for a file that cannot be read, lacks a tensor, or
      has another architecture or format.
  """
  path = find(path)
  tensors = tensors_in(path)
  beside = path.with_name(CONFIG)
  settings = settings_of(beside)
  try:
    bert.check_kind(settings.get("model_type"))
  except ValueError as error:
    raise ValueError(f"{beside}: {error}") from error
  for name in ("num_attention_heads", "n_heads"):  # n_heads: DistilBERT's
    if num_heads is None:
      num_heads = settings.get(name)
  if num_heads is None:
    raise ValueError(
      f"the number of heads is not in {path}, and no config.json beside it "
      "tells it: give it"
    )
  pad = settings.get("pad_token_id")
  try:
    config, variables = convert(
      tensors,
      num_heads,
      settings.get("model_type"),
      settings.get("layer_norm_eps"),
      None if pad is None else pad + 1,
      head,
    )
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  for name, size in {
    "vocab_size": config.vocab_size,
    "max_position_embeddings": config.max_length + config.position_offset,
    "hidden_size": config.embed_dim,
    "dim": config.embed_dim,
    "num_hidden_layers": config.num_layers,
    "n_layers": config.num_layers,
    "intermediate_size": config.mlp_dim,
    "hidden_dim": config.mlp_dim,
  }.items():
    if settings.get(name, size) != size:
      raise ValueError(
        f"{beside}: {name} is {settings[name]!r:.60}, but {size} in {path}: "
        "the two are not of one model"
      )
  return config, variables


def has_head(settings: dict[str, Any], head: str | None) -> bool:
  """Returns whether the head of a model type is one of the models here."""
  kind = names.KINDS.get(str(settings.get("model_type")), names.ROBERTA)
  return head != names.CLASSIFIER or bool(kind.classifier)


# RoBERTa's, and those of the tokenizers that are trained here.
_SPECIAL_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_ARCHITECTURES = {
  None: "RobertaModel",
  names.LM: "RobertaForMaskedLM",
  names.CLASSIFIER: "RobertaForSequenceClassification",
}


def save(
  folder: str | os.PathLike[str],
  config: model_config.ModelConfig,
  variables: dict[str, Any],
  head: str | None = None,
  dtype: str = "float32",
  labels: tuple[str, ...] = (),
  special_ids: dict[str, int] | None = None,
) -> None:
  """Writes a model with softmax attention as a RoBERTa in safetensors.

  Args:
    folder: where model.safetensors and config.json are written.
    config, variables: of a post-norm model, with scanned layers or without.
    head: as for `load`.
    dtype: of the tensors that are written, e.g. 'bfloat16'.
    labels: names of the classes.
    special_ids: bos_token_id, pad_token_id and eos_token_id; None for
      RoBERTa's.

  Raises:
    ValueError: for a model that is not a RoBERTa; nothing is written.
  """
  special_ids = special_ids or _SPECIAL_IDS
  # RoBERTa counts positions from one past the id of the padding.
  offset = special_ids["pad_token_id"] + 1
  params = layers.unstack(variables["params"])
  tensors = bert.tensors_of(config, params, head, offset)
  settings = {
    "architectures": [_ARCHITECTURES[head]],
    "model_type": "roberta",
    "vocab_size": config.vocab_size,
    "max_position_embeddings": config.max_length + offset,
    "type_vocab_size": max(1, config.num_segments),
    "hidden_size": config.embed_dim,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "intermediate_size": config.mlp_dim,
    "hidden_act": "gelu",
    "layer_norm_eps": config.norm_epsilon,
    "hidden_dropout_prob": config.dropout_rate,
    "attention_probs_dropout_prob": config.layers[0].dropout_rate,
    **special_ids,
    "tie_word_embeddings": True,
    "dtype": dtype,
  }
  if head == names.CLASSIFIER:
    size = len(tensors["classifier.out_proj.bias"])
    known = labels or tuple(f"LABEL_{i}" for i in range(size))
    settings["id2label"] = {str(i): name for i, name in enumerate(known)}
    settings["label2id"] = {name: i for i, name in enumerate(known)}
  write(folder, tensors, settings, dtype)


def write(folder, tensors: dict[str, np.ndarray], settings, dtype: str):
  """Writes model.safetensors in a dtype, and config.json."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  cast = {name: x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}
  # The field by which transformers knows the format.
  metadata = {"format": "pt"}
  (folder / WEIGHTS).write_bytes(safetensors.numpy.save(cast, metadata))
  text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
  (folder / CONFIG).write_text(text, encoding="utf-8")


def find(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the file of weights or of their index at a path.

  Raises:
    ValueError: in one line, for another format or a folder without weights.
  """
  path = pathlib.Path(paths.expand(path, "path"))
  if path.suffix in _OTHER_FORMATS:
    raise ValueError(f"{path} is not safetensors: {_SAVE_AGAIN}")
  if _PART.search(path.name):
    raise ValueError(
      f"{path} is one of several files of a model: give their folder"
    )
  if not os.path.isdir(path):
    return path
  for name in (WEIGHTS, _INDEX):
    if os.path.exists(path / name):
      return path / name
  others = sorted(x.name for x in path.iterdir() if x.suffix in _OTHER_FORMATS)
  if others:
    raise ValueError(f"{path / others[0]} is not safetensors: {_SAVE_AGAIN}")
  raise ValueError(f"there is no model.safetensors in the folder {path}")


class _Tensor:
  """A tensor of a file, read when it is converted to an array."""

  def __init__(self, file, name: str):
    self._file, self._name = file, name
    part = file.get_slice(name)
    self.shape = tuple(part.get_shape())
    self.dtype = part[(slice(0, 0),) * len(self.shape)].dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype=None, copy=None):
    del copy  # It is always read anew.
    return np.asarray(self._file.get_tensor(self._name), dtype)


def tensors_in(path: pathlib.Path) -> dict[str, _Tensor]:
  """Returns tensors by name from a file or from all files of an index.

  Raises:
    ValueError: in one line, for a file that cannot be read.
  """
  files = [path]
  if path.suffix == ".json":
    places = _json(path).get("weight_map")
    if not isinstance(places, dict) or not all(
      isinstance(name, str) for name in places.values()
    ):
      raise ValueError(f"{path} has no weight_map of tensors to files")
    files = [path.with_name(name) for name in sorted(set(places.values()))]
  tensors = {}
  for file in files:
    try:
      opened = safetensors.safe_open(file, "numpy")
      tensors |= {name: _Tensor(opened, name) for name in opened.keys()}
    except (OSError, safetensors.SafetensorError) as error:
      raise ValueError(f"cannot read the weights {file}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
      raise ValueError(  # safetensors raises these for float8
        f"cannot read the weights {file}: unsupported dtype ({error})"
      ) from error
  return tensors


def _json(path):
  """Returns the non-null settings of a JSON file."""
  try:
    settings = json.loads(path.read_text(encoding="utf-8"))
  except RecursionError as error:
    raise ValueError(f"cannot read {path}: too deeply nested") from error
  except (OSError, ValueError) as error:
    raise ValueError(f"cannot read {path}: {error}") from error
  if not isinstance(settings, dict):
    raise ValueError(f"{path} holds no settings")
  return {name: x for name, x in settings.items() if x is not None}


def settings_of(path: pathlib.Path) -> dict[str, Any]:
  """Returns the settings of config.json, or {} if there is none.

  Raises:
    ValueError: in one line, for settings that cannot be read or are of a model
      that is not supported.
  """
  if not os.path.exists(path):
    return {}
  settings = _json(path)
  for name, expected in _EXPECTED.items():
    if settings.get(name, expected) != expected:
      raise ValueError(
        f"{path}: {name} is {settings[name]!r:.60}; only {expected!r} is "
        "supported"
      )
  for name in ("num_attention_heads", "n_heads", "pad_token_id"):
    if type(settings.get(name, 0)) is not int:
      raise ValueError(
        f"{path}: {name} is {settings[name]!r:.60}, not a whole number"
      )
  epsilon = settings.get("layer_norm_eps", 0.5)
  if type(epsilon) is not float or not 0 < epsilon < 1:
    raise ValueError(
      f"{path}: layer_norm_eps is {epsilon!r:.60}, not between 0 and 1"
    )
  return settings

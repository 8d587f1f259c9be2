"""Models to take away: safetensors, config.json and the tokenizer's files.

A model with RoBERTa's architecture is written under RoBERTa's names, so that
`transformers` opens it too; any other under the paths of its parameters here.
"""

import copy
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import traverse_util
from ml_collections import config_dict

from linformer_jax import attention, models
from linformer_jax import step as step_lib
from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.data.text import wordpiece
from linformer_jax.models import bert, layers, weights
from linformer_jax.run import config_fields, workdir

TYPE = "linformer_jax"  # model_type in config.json
DTYPES = ("float32", "bfloat16", "float16")
_HEADS = {
  "MaskedLM": models.MaskedLM,
  "Classifier": models.Classifier,
  None: models.TokenEncoder,
}
# Names of special tokens in `transformers`, in the order of `special.Special`.
_SPECIAL = (
  ("bos_token", "cls_token"),
  ("pad_token",),
  ("eos_token", "sep_token"),
  ("unk_token",),
  ("mask_token",),
)

# Fields with places on the machine of the run, which mean nothing elsewhere.
_PLACES = tuple(
  "data.files data.validation_files data.tfds_data_dir data.tokenizer_path "
  "data.cache_dir train.init_from".split()
)


def is_there(folder: pathlib.Path) -> bool:
  """Returns whether a folder holds an exported model, and not a run."""
  return any(folder.glob("model.safetensors*"))


def write(run, folder: pathlib.Path, dtype: str = "float32") -> str:
  """Writes a model, its config and its tokenizer.

  Args:
    run: a `loading.Run`. Without a config, the model's own is written.
    folder: where to; made if it is not there.
    dtype: one of `DTYPES`, of the weights in the file.

  Returns:
    The format: 'roberta' or `TYPE`.

  Raises:
    ValueError: for another dtype; nothing is written.
  """
  if dtype not in DTYPES:
    raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
  name = type(run.model).__name__
  config = run.model.config
  found = TYPE
  if name in _HEADS and bert.is_roberta(config):
    found = "roberta"
    special = special_lib.of(run.tokenizer)
    ids = {
      "bos_token_id": special.bos,
      "pad_token_id": special.pad,
      "eos_token_id": special.eos,
    }
    weights.save(folder, config, run.variables, name, dtype, run.labels, ids)
  else:
    flat = traverse_util.flatten_dict(layers.unstack(run.variables), sep=".")
    settings = {
      "model_type": TYPE,
      **_described(run),
      "step": run.step,
      "labels": list(run.labels),
    }
    tensors = {name: np.asarray(leaf) for name, leaf in flat.items()}
    weights.write(folder, tensors, settings, dtype)
  _write_tokenizer(folder, run.tokenizer, config)
  return found


def _described(run) -> dict[str, Any]:
  """Returns what `_read_ours` or `_read_alone` builds the model from."""
  if run.config is not None:
    config = copy.deepcopy(run.config)
    config.update_from_flattened_dict(dict.fromkeys(_PLACES, ""))
    return {"config": config.to_dict()}
  model = run.model.config
  values = {
    field.name: getattr(model, field.name)
    for field in dataclasses.fields(model)
    if field.name != "attention"
  }
  head = type(run.model).__name__
  return {
    "head": None if head == models.TokenEncoder.__name__ else head,
    "num_classes": getattr(run.model, "num_classes", None),
    "model": values,
    "attention": attention.to_fields(model.layers),
  }


def _write_tokenizer(folder, tokenizer, config):
  """Writes tokenizer.json and its settings as `transformers` reads them."""
  special = special_lib.of(tokenizer)
  text = json.loads(tokenizer.to_str())
  for token in text["added_tokens"]:
    # As in RoBERTa, a mask takes the space before it.
    token["lstrip"] = token["content"] == special_lib.ROBERTA[-1]
  text["post_processor"] = _processor(special, config.num_segments > 1)
  settings = {
    name: token
    for names, token in zip(_SPECIAL, special.names, strict=True)
    for name in names
  } | {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": config.max_length,
  }
  if config.num_segments > 1:
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings["model_input_names"] = inputs
  for name, content in {
    workdir.TOKENIZER: text,
    "tokenizer_config.json": settings,
  }.items():
    written = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / name).write_text(written, encoding="utf-8")


def _processor(special, segments: bool) -> dict[str, Any]:
  """Returns what joins the texts of a row in a tokenizer.json."""
  bos, _, eos, *_ = special.names
  if not (segments or special.is_bert):
    return {
      "type": "RobertaProcessing",
      "sep": [eos, special.eos],
      "cls": [bos, special.bos],
      "trim_offsets": True,
      "add_prefix_space": False,
    }
  second = ":1" if segments else ":0"
  between = " ".join([eos] * len(special.between))
  made = tokenizers.processors.TemplateProcessing(
    single=f"{bos} $A {eos}",
    pair=f"{bos} $A {between} $B{second} {eos}{second}",
    special_tokens=[(bos, special.bos), (eos, special.eos)],
  )
  return json.loads(made.__getstate__())


def read(folder: pathlib.Path, start: bool = False) -> dict[str, Any]:
  """Reads a folder that `write` wrote, or that of a BERT-like model.

  Args:
    folder: the folder.
    start: read the encoder alone where the head is of a kind that no model here
      has, as of DistilBERT's classifiers, to start another model from.

  Returns:
    config (None for a model that is not of `TYPE`), step, model, variables (on
    the host), tokenizer and labels.

  Raises:
    ValueError: in one line, for a folder that is not whole.
  """
  settings = weights.settings_of(folder / weights.CONFIG)
  if settings.get("model_type") == TYPE:
    found = _read_ours(folder, settings)
  else:
    found = _read_bert(folder, settings, start)
  path = wordpiece.find(folder, workdir.TOKENIZER)
  if not path.exists():
    raise ValueError(f"{path} is missing: {folder} is not whole")
  size = found["model"].config.vocab_size
  found["tokenizer"] = tokenizer_lib.load(path, size)
  return found


def _read_alone(folder, settings):
  """Reads a model that was written without the config of a run."""
  try:
    layers_of = attention.from_fields(
      settings["attention"], settings["model"]["num_layers"]
    )
    config = models.ModelConfig(attention=layers_of, **settings["model"])
    classes = [x for x in (settings.get("num_classes"),) if x is not None]
    module = _HEADS[settings.get("head")](config, *classes)
    tokens = jnp.zeros((1, 1), jnp.int32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), tokens)
    labels = tuple(settings["labels"])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{folder / weights.CONFIG} is not of this version of the code: {error}"
    ) from error
  return {
    "config": None,
    "step": settings.get("step"),
    "model": module,
    "variables": _variables(folder, config, {"constants": {}} | dict(wanted)),
    "labels": labels,
  }


def _read_ours(folder, settings):
  path = folder / weights.CONFIG
  if "config" not in settings:
    return _read_alone(folder, settings)
  try:
    stored = workdir.with_later_fields(settings["config"])
    config = config_dict.ConfigDict(stored)
    config_fields.check_names_and_types(config)
    step, labels = int(settings["step"]), tuple(settings["labels"])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path} is not of this version of the code: {error}"
    ) from error
  task = step_lib.task_of(config)
  shapes = step_lib.abstract_shapes(config)
  wanted = {"params": shapes.params, "constants": shapes.constants}
  return {
    "config": config,
    "step": step,
    "model": task.module(),
    "variables": _variables(folder, task.model, wanted),
    "labels": labels,
  }


def _variables(folder, model, wanted):
  """Returns the variables in a folder, of the wanted shapes."""
  tensors = weights.tensors_in(folder / weights.WEIGHTS)
  tree = traverse_util.unflatten_dict(
    {name: np.asarray(x, np.float32) for name, x in tensors.items()}, sep="."
  )
  if model.scan_layers:
    tree = layers.stack(tree, model.layers)
  variables = {"params": {}, "constants": {}} | tree
  _check_shapes(folder, variables, wanted)
  return variables


def _check_shapes(folder, variables, wanted):
  """Raises a ValueError for a tensor that is missing, unknown or misshapen."""
  here, there = (
    {
      name: leaf.shape
      for name, leaf in traverse_util.flatten_dict(tree, sep=".").items()
    }
    for tree in (wanted, variables)
  )
  for name in sorted(here.keys() | there.keys()):
    if here.get(name) != there.get(name):
      raise ValueError(
        f"{folder / weights.WEIGHTS}: {name} is {there.get(name, 'missing')}, "
        f"and {here.get(name, 'not known')} in config.json: the two are not of "
        "one model"
      )


def _read_bert(folder, settings, start):
  name, *_ = settings.get("architectures") or ("Model",)
  head = {
    "ForMaskedLM": "MaskedLM",
    "ForSequenceClassification": "Classifier",
  }.get(name[name.find("For") :] if "For" in name else "")
  if start and not weights.has_head(settings, head):
    head = None
  config, variables = weights.load(folder, head=head)
  labels, model = (), _HEADS[head]
  if head == "Classifier":
    size = variables["params"]["head_out"]["bias"].size
    told = settings.get("id2label") or {}
    labels = tuple(str(told.get(str(i), i)) for i in range(size))
    model = models.Classifier(config, size)
  else:
    model = model(config)
  return {
    "config": None,
    "step": None,
    "model": model,
    "variables": variables,
    "labels": labels,
  }

"""Checks the names, types and ranges of config fields.

The groups `model` and `data` are dataclasses, which check most of their values;
the other ranges are listed here. configs/base.py has the defaults and units.
"""

import dataclasses
import difflib
import math
import typing

from flax import traverse_util
from ml_collections import config_dict

from linformer_jax import attention, tasks
from linformer_jax.data import pipeline
from linformer_jax.models import config as model_config
from linformer_jax.parallel import sharding

LISTED = "configs/base.py lists all fields"

_INT32 = 2**31 - 1
_COUNT = (int, 1, _INT32)
_COUNT_OR_NONE = (int, 0, _INT32)
_FLOAT = (float, 0.0, 3e38)  # finite in float32
_TINY, _ALMOST_ONE = math.ulp(0.0), math.nextafter(1, 0)
_ABOVE_ZERO = (float, _TINY, 3e38)
# (type, minimum, maximum) of a value.
_RANGES = {
  "seed": (int, 0, 2**32 - 1),
  "data.holdout_fraction": (float, _TINY, _ALMOST_ONE),
  "data.tokenizer_train_megabytes": (float, _TINY, 1e9),
  "optimizer.learning_rate": _ABOVE_ZERO,
  "optimizer.warmup_steps": _COUNT_OR_NONE,
  "optimizer.adam_b1": (float, 0.0, _ALMOST_ONE),
  "optimizer.adam_b2": (float, 0.0, _ALMOST_ONE),
  "optimizer.adam_epsilon": _ABOVE_ZERO,
  "optimizer.weight_decay": _FLOAT,
  "optimizer.projection_rate": _FLOAT,
  "optimizer.clip_norm": _FLOAT,
  "train.batch_size": _COUNT,
  "train.accumulation_steps": _COUNT,
  "train.num_steps": (int, 1, _INT32 - 1),
  **{f"mesh.{axis}": (int, -1, _INT32) for axis in sharding.AXES},
  "run.log_every_steps": _COUNT,
  "run.eval_every_steps": _COUNT_OR_NONE,
  "run.eval_batch_size": _COUNT,
  "run.checkpoint_every_steps": _COUNT,
  "run.keep_checkpoints": _COUNT,
  "run.profile_steps": _COUNT_OR_NONE,
}


_CHOSEN = ("task.", "attention.")  # groups whose fields depend on their name


def _types():
  """Returns the type of every field, by names such as 'model.max_length'."""
  types = {name: kind for name, (kind, *_) in _RANGES.items()}
  for group, made in (
    ("model", model_config.ModelConfig),
    ("data", pipeline.DataConfig),
    # A task and an attention check themselves which fields are theirs.
    *(("task", made) for made in tasks.TASKS.values()),
    *(("attention", made) for made in attention.ATTENTIONS.values()),
    *((f"attention.{x}", made) for x, made in attention.ATTENTIONS.items()),
  ):
    for field in dataclasses.fields(made):
      kind = typing.get_origin(field.type) or field.type
      types[f"{group}.{field.name}"] = kind
  del types["model.attention"]  # made from the group `attention`
  types["task.name"] = types["attention.name"] = str
  types["attention.pattern"] = tuple
  types["mesh.float32_gradients"] = bool
  types["run.keep_best"] = bool
  types["train.restarts"] = tuple
  types["train.init_from"] = str
  types["train.init_model"] = bool
  return types


def flatten(config: config_dict.ConfigDict) -> dict:
  """Returns the values by names such as 'model.max_length'."""
  return traverse_util.flatten_dict(config.to_dict(), sep=".")


def closest(name: str, names) -> str:
  """Returns the known name most similar to a wrong one, or ''."""
  last = name.split(".")[-1]
  in_another_group = [known for known in names if known.split(".")[-1] == last]
  found = in_another_group or difflib.get_close_matches(name, names, 1, 0.85)
  return found[0] if found else ""


def check_names_and_types(config: config_dict.ConfigDict):
  """Raises a ValueError unless fields and types are as in configs/base.py."""
  types, values = _types(), flatten(config)
  unknown = values.keys() - types.keys()
  missing = {
    name
    for name in types.keys() - values.keys()
    if not name.startswith(_CHOSEN) or name.endswith(".name")
  }
  if unknown:
    name = min(unknown)
    like = closest(name, missing or types)
    raise ValueError(
      f"there is no field {name!r}; "
      + (f"did you mean {like!r}?" if like else LISTED)
    )
  if missing:
    raise ValueError(
      f"the field {min(missing)!r} is missing: start from "
      "configs.base.get_config(), which has all"
    )
  for name, value in values.items():
    kinds = (int, float) if types[name] is float else types[name]
    if types[name] is tuple:
      kinds = (tuple, list)
    is_bool = isinstance(value, bool) and types[name] is not bool
    if not isinstance(value, kinds) or is_bool:
      raise ValueError(
        f"{name} is {value!r}, not of type {types[name].__name__}"
      )


def check_ranges(config: config_dict.ConfigDict):
  """Raises a ValueError for a number out of range."""
  values = flatten(config)
  for name, (_, low, high) in _RANGES.items():
    value = values[name]
    if low <= value <= high:  # False for NaN.
      continue
    start = "above 0" if low == _TINY else f"at least {low:,}"
    end = "below 1" if high == _ALMOST_ONE else f"at most {high:,}"
    raise ValueError(f"{name} {value} must be {start} and {end}")

"""The table of attentions, and config groups that choose from it.

A group has the `name` of an attention and that attention's fields, or the name
'mixed', a `pattern` of names by layer, and one group of fields for each name.
"""

import dataclasses
from typing import Any

from linformer_jax.attention import (
  adamra,
  causal_linformer_config,
  cosformer,
  fnet,
  linear,
  linformer_config,
  local,
  luna,
  nystrom,
  performer,
  softmax,
  transformer_ls,
)
from linformer_jax.attention.base import AttentionConfig

ATTENTIONS = {
  config.name: config
  for config in (
    softmax.SoftmaxConfig,
    linformer_config.LinformerConfig,
    local.LocalConfig,
    linear.LinearConfig,
    transformer_ls.TransformerLSConfig,
    luna.LunaConfig,
    fnet.FNetConfig,
    adamra.AdaMRAConfig,
    nystrom.NystromConfig,
    performer.PerformerConfig,
    cosformer.CosformerConfig,
    causal_linformer_config.CausalLinformerConfig,
  )
}
DEFAULT = linformer_config.LinformerConfig()
MIXED = "mixed"


def fields(*names: str) -> dict[str, Any]:
  """Returns the config group of an attention, or of a pattern, with defaults.

  Args:
    *names: one name, or a pattern of names that is repeated layer by layer.

  Raises:
    ValueError: for a name not in `ATTENTIONS`.
  """
  groups = {name: _defaults(name) for name in names}
  if len(names) == 1:
    return {"name": names[0], **groups[names[0]]}
  return {"name": MIXED, "pattern": names, **groups}


def _defaults(name):
  if name not in ATTENTIONS:
    raise ValueError(
      f"attention {name!r} is not one of {', '.join(ATTENTIONS)}"
    )
  return dataclasses.asdict(ATTENTIONS[name]())


def _create(name, values, path):
  """Makes an AttentionConfig from its fields."""
  unknown = values.keys() ^ _defaults(name).keys()
  for field in sorted(unknown):
    said = "has no" if field in values else "needs the"
    raise ValueError(
      f"attention {name!r} {said} field {path}.{field}: choose the attention "
      f"by the argument of a config file, such as configs/smoke.py:attention="
      f"{name}"
    )
  return ATTENTIONS[name](**values)


def from_fields(
  group: dict[str, Any], num_layers: int
) -> tuple[AttentionConfig, ...]:
  """Returns the attention of each layer from a config group.

  Args:
    group: as `fields` returns it.
    num_layers: layers; a shorter pattern is repeated.

  Raises:
    ValueError: for an attention not in `ATTENTIONS`, unknown or missing fields,
      or a pattern that does not divide the layers.
  """
  values = dict(group)
  name = values.pop("name", None)
  if name != MIXED:
    return _create(name, values, "attention").layers(num_layers)
  pattern = tuple(values.pop("pattern", ()))
  if not pattern or num_layers % len(pattern):
    raise ValueError(
      f"attention.pattern {pattern} lists {len(pattern)} names, which do not "
      f"divide model.num_layers {num_layers}"
    )
  names = pattern * (num_layers // len(pattern))
  for other in values.keys() ^ set(names):
    raise ValueError(
      f"attention.pattern {pattern} and the group attention.{other} disagree: "
      "each name of the pattern needs its group"
    )
  layers = {
    name: iter(
      _create(name, dict(values[name]), f"attention.{name}").layers(
        names.count(name)
      )
    )
    for name in dict.fromkeys(names)
  }
  return tuple(next(layers[name]) for name in names)


def to_fields(layers: tuple[AttentionConfig, ...]) -> dict[str, Any]:
  """Returns the config group of the attentions of layers, for `from_fields`.

  Raises:
    ValueError: if layers of one attention have different fields.
  """
  kinds = {}
  for layer in layers:
    if kinds.setdefault(layer.name, layer) != layer:
      raise ValueError(
        f"layers with {layer.name} attention differ, and a config group has "
        f"one: {kinds[layer.name].describe()} and {layer.describe()}"
      )
  groups = {name: dataclasses.asdict(kind) for name, kind in kinds.items()}
  if len(groups) == 1:
    ((name, group),) = groups.items()
    return {"name": name, **group}
  pattern = tuple(layer.name for layer in layers)
  return {"name": MIXED, "pattern": pattern, **groups}

"""What `--init_from` names: the model whose weights a new run starts from.

It is a run, a model that `export` wrote, or BERT-like weights in safetensors
with their config.json and their tokenizer.json, or BERT's vocab.txt.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from linformer_jax import attention, exported, loading, optimizer
from linformer_jax import step as step_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.data.text import wordpiece
from linformer_jax.models import layers, weights
from linformer_jax.run import checkpoint, files, paths, workdir

_FLAG = "--init_from"
# What transformers writes beside a tokenizer, and ids do not depend on.
_NOT_IDS = ("post_processor", "decoder", "truncation", "padding", "version")


@dataclasses.dataclass(frozen=True)
class Origin:
  """The model in a folder.

  Attributes:
    given: the value of `--init_from`.
    directory: the folder.
    is_run: whether it is the folder of a run, not of an exported model.
  """

  given: str
  directory: pathlib.Path
  is_run: bool

  @functools.cached_property
  def _exported(self) -> dict[str, Any]:
    return exported.read(self.directory, start=True)

  def groups(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the `model` and the `attention` group of the model's config."""
    if self.is_run:
      config = loading.stored_config(self.directory)
    else:
      config = self._exported["config"]
      if config is None:
        return _groups_of(self._exported["model"].config)
    return config.model.to_dict(), config.attention.to_dict()

  def shapes(self) -> dict[str, Any]:
    """Returns parameters and constants by path, as shapes or arrays."""
    if not self.is_run:
      return _by_path(self._exported["variables"])
    state = step_lib.abstract_shapes(loading.stored_config(self.directory))
    return _by_path({"params": state.params, "constants": state.constants})

  def variables(self, mesh):
    """Returns the best or newest variables, and their number of updates.

    Those of a run are on the mesh, and those of a file on the host.

    Raises:
      checkpoint.CheckpointError: if they cannot be read.
    """
    try:
      if not self.is_run:
        return self._exported["variables"], self._exported["step"]
      config = loading.stored_config(self.directory)
      state = loading.restore(self.directory, config, mesh)
    except ValueError as error:
      raise checkpoint.CheckpointError(f"{_FLAG}: {error}") from error
    variables = {"params": state.params, "constants": state.constants}
    return variables, int(state.step)


def find(given: str) -> Origin:
  """Returns the model that a flag names; a file stands for its folder.

  Raises:
    ValueError: in one line, if there is no run and no model in safetensors.
  """
  directory = files.folder(given, _FLAG)
  if paths.in_bucket(given):
    return Origin(given, directory, is_run=True)
  if directory.is_file():
    directory = weights.find(directory).parent
  elif directory.is_dir() and not (directory / workdir.CORPUS).exists():
    try:
      weights.find(directory)
    except ValueError as error:
      if "safetensors:" in str(error):  # It is of another format.
        raise ValueError(f"{_FLAG}: {error}") from error
  is_run = not (directory.is_dir() and exported.is_there(directory))
  if is_run:
    try:
      loading.stored_config(directory)
    except ValueError as error:
      raise ValueError(f"{_FLAG}: {error}") from error
  return Origin(given, directory, is_run)


def tokenizer_path(given: str) -> str:
  """Returns the path of the model's tokenizer, which may be gone.

  Raises:
    ValueError: if it is in a bucket.
  """
  if paths.in_bucket(given):
    raise ValueError(
      f"{_FLAG}={given}: copy its {workdir.TOKENIZER} to a disk and name "
      "that as --config.data.tokenizer_path"
    )
  directory = files.folder(given, _FLAG).absolute()
  if directory.suffix == ".safetensors" and not directory.is_dir():
    directory = directory.parent
  return str(wordpiece.find(directory, workdir.TOKENIZER))


def _groups_of(model) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the groups of a model."""
  values = {
    field.name: getattr(model, field.name)
    for field in dataclasses.fields(model)
    if field.name != "attention"
  }
  return values, attention.to_fields(model.layers)


def check(origin: Origin, config, corpus) -> None:
  """Raises a ValueError unless weights and tokenizer fit a new run.

  The head need not fit if the other model has another task.

  Args:
    origin: the model to start from.
    config: config of the new run.
    corpus: corpus of the new run, as returned by `data.pipeline.prepare`.
  """
  there = {name: leaf.shape for name, leaf in origin.shapes().items()}
  state = step_lib.abstract_shapes(config)
  tree = {"params": state.params, "constants": state.constants}
  here = {name: leaf.shape for name, leaf in _by_path(tree).items()}
  names = (here.keys() | there.keys()) - _other_heads(here, there)
  different = [
    f"{name} {there.get(name, 'missing')} there, {here.get(name, 'none')} here"
    for name in sorted(names)
    if there.get(name) != here.get(name) and not optimizer.is_projection(name)
  ]
  if different:
    raise ValueError(
      f"{_FLAG}={origin.given}: its weights do not fit this model "
      f"({'; '.join(different[:3])}): use the sizes of "
      f"{origin.directory}/config.json"
    )
  path = wordpiece.find(origin.directory, workdir.TOKENIZER)
  if not path.exists() or _ids(path) != _ids(corpus.tokenizer_json):
    raise ValueError(
      f"{_FLAG}={origin.given}: its tokenizer is another one, so that its "
      "embeddings are of other tokens: leave data.tokenizer_path to it"
    )


def _ids(tokenizer) -> dict[str, Any]:
  """Returns the parts of a tokenizer, a path or JSON, on which ids depend."""
  text = tokenizer
  if not isinstance(tokenizer, str):
    old = tokenizer.name == wordpiece.VOCABULARY
    text = wordpiece.read(tokenizer) if old else tokenizer.read_text()
  # As this version of the package writes it, with all defaults.
  text = tokenizer_lib.parse(text, np.iinfo(np.int32).max, str(tokenizer))
  parts = json.loads(text.to_str()).items()
  found = {name: x for name, x in parts if name not in _NOT_IDS}
  added = found.get("added_tokens") or []
  return found | {"added_tokens": {x["content"]: x["id"] for x in added}}


def _by_path(variables) -> dict[str, Any]:
  """Returns parameters and constants by path, with single layers."""
  abstract = any(
    isinstance(leaf, jax.ShapeDtypeStruct)
    for leaf in jax.tree.leaves(variables)
  )
  if abstract:
    variables = jax.eval_shape(layers.unstack, variables)
  else:
    variables = layers.unstack(variables)
  # A model without a head is an encoder alone.
  alone = "encoder" not in variables["params"]
  return {
    "encoder/" * alone + name: leaf
    for tree in variables.values()
    for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()
  }


def _other_heads(here, there) -> set[str]:
  """Returns the paths of both heads if they are not of one task, or none."""
  heads = [
    {name for name in paths if not name.startswith("encoder/")}
    for paths in (here, there)
  ]
  return set() if heads[0] == heads[1] else heads[0] | heads[1]


@dataclasses.dataclass(frozen=True)
class _Place:
  """The sharding of a leaf, or of the layers in a stack."""

  shape: tuple[int, ...]
  sharding: jax.sharding.NamedSharding

  def __getitem__(self, layer):
    del layer
    spec = jax.sharding.PartitionSpec(*self.sharding.spec[1:])
    sharding = jax.sharding.NamedSharding(self.sharding.mesh, spec)
    return _Place(self.shape[1:], sharding)


def _placed(source, target, taken) -> dict[str, jax.Array]:
  """Puts arrays of the host where those of a state are, one by one.

  Each device gets its part alone, so that a model need not fit on one device.
  """
  there = _by_path(source)
  target = jax.tree.map(lambda x: _Place(x.shape, x.sharding), target)
  places = _by_path(target)
  return {
    name: jax.make_array_from_callback(
      there[name].shape, places[name].sharding, there[name].__getitem__
    )
    for name in taken
  }


def start(origin: Origin, state, mesh, model) -> tuple[Any, str]:
  """Returns a fresh state with the weights of another model.

  A projection along the sequence, such as E and F, that the model does not
  have, or has in another shape, keeps its initial values: so a model with
  softmax attention can start one with projected keys and values. So does the
  head, if the model has another task.

  Args:
    origin: the model, checked by `check`.
    state: a TrainState at step 0.
    mesh: the devices.
    model: the ModelConfig of the state.

  Returns:
    The state, and a line that says where it comes from.

  Raises:
    checkpoint.CheckpointError: if the weights cannot be read.
  """
  source, seen = origin.variables(mesh)
  target = {"params": state.params, "constants": state.constants}
  here, there = (
    _by_path(jax.eval_shape(lambda x: x, tree)) for tree in (target, source)
  )
  heads = _other_heads(here, there)
  taken = {
    name
    for name in here.keys() & there.keys() - heads
    if here[name].shape == there[name].shape
  }
  if not origin.is_run:
    source = _placed(source, target, sorted(taken))

  def merge(source, target):
    there = _by_path(source) if origin.is_run else source

    def chosen(path, leaf):
      name = "/".join(path)
      return there[name].astype(leaf.dtype) if name in taken else leaf

    merged = {
      group: traverse_util.path_aware_map(chosen, tree)
      for group, tree in layers.unstack(target).items()
    }
    return layers.stack(merged, model.layers) if model.scan_layers else merged

  places = jax.tree.map(lambda leaf: leaf.sharding, target)
  merged = jax.jit(merge, out_shardings=places)(source, target)
  fresh = here.keys() - taken
  projections = sum(map(optimizer.is_projection, fresh))
  parts = [f"{projections} new projections"] * bool(projections)
  parts += ["a new head"] * (projections < len(fresh))
  after = "" if seen is None else f" after {seen:,} updates"
  line = f"starting from the weights of {origin.given}{after}"
  if parts:
    line += f", with {' and '.join(parts)}"
  return state.replace(**merged), line

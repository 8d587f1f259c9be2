"""Loads a run, or an exported model: model, weights and tokenizer.

import linformer_jax

run = linformer_jax.load("runs/smoke")
run.fill("the President of the United <mask>")
model, variables, tokenizer = run
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import tokenizers
from flax import traverse_util
from ml_collections import config_dict

from linformer_jax import exported, models, optimizer
from linformer_jax import step as step_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.parallel import sharding
from linformer_jax.run import checkpoint, config_fields, files, paths, workdir


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A trained model.

  Attributes:
    config: the run's config.json; None for a model of another library.
    step: updates completed; None for a model of another library.
    model: the task's module; `model.apply(variables, tokens, mask)` returns
      logits.
    variables: parameters and constants.
    tokenizer: the run's tokenizer.json.
    labels: the names of the classes, if it is a classifier that has them.
  """

  config: config_dict.ConfigDict | None
  step: int | None
  model: Any
  variables: dict[str, Any]
  tokenizer: tokenizers.Tokenizer
  labels: tuple[int | str, ...] = ()

  def __iter__(self):
    """Yields the model, its variables and its tokenizer."""
    return iter((self.model, self.variables, self.tokenizer))

  def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts as in training: `<s>`, then tokens.

    `<mask>` in a text is the mask token; it replaces a word and the space
    before it. Texts are padded to the model's max_length N.

    Returns:
      (tokens int32 [B, N], mask bool [B, N], True at real tokens).

    Raises:
      ValueError: if a text has more than N - 1 tokens.
    """
    length = self.model.config.max_length
    shape = len(texts), length
    tokens = np.full(shape, tokenizer_lib.PAD_ID, np.int32)
    mask = np.zeros(shape, bool)
    for row, text in enumerate(texts):
      ids = [tokenizer_lib.BOS_ID, *self._ids(text)]
      if len(ids) > length:
        raise ValueError(
          f"text {row} has {len(ids) - 1} tokens; the model takes max_length "
          f"{length}, <s> included: shorten it"
        )
      tokens[row, : len(ids)] = ids
      mask[row, : len(ids)] = True
    return tokens, mask

  def _ids(self, text):
    pieces = text.split(tokenizer_lib.MASK_TOKEN)
    pieces[:-1] = [piece.removesuffix(" ") for piece in pieces[:-1]]
    ids = []
    for piece in tokenizer_lib.encode(self.tokenizer, pieces):
      ids += [*piece, tokenizer_lib.mask_id(self.tokenizer)]
    return ids[:-1]

  def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """Returns the most likely tokens and probabilities at each `<mask>`.

    Raises:
      ValueError: if the text has no `<mask>` or is too long, or the model is
        not a masked language model.
    """
    if not isinstance(self.model, models.MaskedLM):
      name = type(self.model).__name__
      raise ValueError(f"this run is a {name}, which does not fill masks")
    tokens, mask = self.encode([text])
    mask_id = tokenizer_lib.mask_id(self.tokenizer)
    (places,) = np.nonzero(tokens[0] == mask_id)
    if not len(places):
      raise ValueError(f"there is no <mask> to fill in {text!r}")
    logits = self._logits(tokens, mask, places[None])[0]
    # The embedding table may have more rows than the tokenizer has tokens.
    probabilities = jax.nn.softmax(
      logits[:, : tokenizer_lib.size(self.tokenizer)]
    )
    return [
      [
        (self.tokenizer.decode([int(i)]), float(row[i]))
        for i in np.argsort(-row)[:top]
      ]
      for row in np.asarray(probabilities)
    ]

  @functools.cached_property
  def _logits(self):
    return jax.jit(functools.partial(self.model.apply, self.variables))


def load(folder: str, step: int | None = None) -> Run:
  """Loads a run, or a model in safetensors with its tokenizer.json.

  Needs only the folder, not the text or its token cache. Puts the weights on
  the first device.

  Args:
    folder: folder of a run, on a disk or gs://, or of a model that `./launch.sh
      export` or `transformers` wrote.
    step: of a run: updates completed, or None for the newest checkpoint.

  Raises:
    ValueError: if the folder holds neither, or one of another code version.
    checkpoint.CheckpointError: if no checkpoint can be read.
  """
  directory = files.folder(folder, "folder")
  if not paths.in_bucket(folder) and exported.is_there(directory):
    if step is not None:
      raise ValueError(f"{directory} is an exported model, which has no steps")
    return Run(**exported.read(directory))
  config = stored_config(directory)
  mesh = sharding.make_mesh(
    config_dict.ConfigDict({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}),
    jax.devices()[:1],
  )
  state = _restore(directory, config, mesh, step)
  path = directory / workdir.TOKENIZER
  if not path.exists():
    raise ValueError(f"{path} is missing: {directory} is not whole")
  tokenizer = tokenizer_lib.parse(
    path.read_text(), config.model.vocab_size, str(path)
  )
  return Run(
    config=config,
    step=int(state.step),
    model=step_lib.task_of(config).module(),
    variables={"params": state.params, "constants": state.constants},
    tokenizer=tokenizer,
  )


def stored_config(directory) -> config_dict.ConfigDict:
  """Returns the config of the run in a folder.

  Raises:
    ValueError: if there is none, or another code version wrote it.
  """
  stored = workdir.stored_config(directory)
  if stored is None:
    raise ValueError(f"{directory} holds no run")
  config = config_dict.ConfigDict(stored)
  try:
    config_fields.check_names_and_types(config)
  except ValueError as error:
    raise ValueError(
      f"{directory} holds a run of another version of the code: {error}"
    ) from error
  return config


def _restore(directory, config, mesh, step=None):
  with checkpoint.Checkpoints(directory, read_only=True) as saved:
    restored = saved.restore(step_lib.abstract_state(config, mesh), step)
  if restored is None:
    raise checkpoint.CheckpointError(f"{directory} holds no checkpoint yet")
  return restored[0]


def tokenizer_path(folder: str, fresh: bool) -> str:
  """Returns the path of the tokenizer.json of the run to start from.

  Args:
    folder: folder of that run.
    fresh: whether the run is yet to be read, so it must exist.

  Raises:
    ValueError: if the folder holds no run, or is in a bucket.
  """
  directory = files.folder(folder)
  if paths.in_bucket(folder):
    raise ValueError(
      f"--init_from={folder}: copy its {workdir.TOKENIZER} to a disk and name "
      "that as --config.data.tokenizer_path"
    )
  if fresh:
    stored_config(directory)
  return str(directory.absolute() / workdir.TOKENIZER)


def check_weights(folder: str, config, corpus) -> None:
  """Raises a ValueError unless a run's weights and tokenizer fit a new run.

  Args:
    folder: folder of the run to start from.
    config: config of the new run.
    corpus: corpus of the new run, as returned by `data.pipeline.prepare`.
  """
  directory = files.folder(folder)
  theirs = stored_config(directory)
  there = _shapes(theirs)
  here = _shapes(config)
  different = [
    f"{name} {there.get(name, 'missing')} there, {here.get(name, 'none')} here"
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name) and not optimizer.is_projection(name)
  ]
  if different:
    raise ValueError(
      f"--init_from={folder}: its weights do not fit this model "
      f"({'; '.join(different[:3])}): use the sizes of {directory}/config.json"
    )
  record = workdir.stored_corpus(directory)
  name = workdir.TOKENIZER
  if record is None or record.tokens[name] != corpus.record.tokens[name]:
    raise ValueError(
      f"--init_from={folder}: its tokenizer is another one, so that its "
      "embeddings are of other tokens: leave data.tokenizer_path to it"
    )


def _leaves(state) -> dict[str, Any]:
  """Returns the parameters and constants by path."""
  return {
    name: leaf
    for tree in (state.params, state.constants)
    for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()
  }


def _shapes(config) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of parameters and constants by path."""
  state = step_lib.abstract_shapes(config)
  return {name: leaf.shape for name, leaf in _leaves(state).items()}


def weights(folder: str, state, mesh):
  """Returns a fresh state with the weights of a run's newest checkpoint.

  A projection along the sequence, such as E and F, that the run does not have,
  or has in another shape, keeps its initial values: so a run with softmax
  attention can start one with projected keys and values.

  Args:
    folder: folder of the run to start from, checked by `check_weights`.
    state: a TrainState at step 0.
    mesh: the devices.

  Returns:
    The state, the number of updates its weights have had, and the number of
    its projections that keep their initial values.

  Raises:
    checkpoint.CheckpointError: if no checkpoint can be read.
  """
  directory = files.folder(folder)
  try:
    config = stored_config(directory)
  except ValueError as error:
    raise checkpoint.CheckpointError(f"--init_from: {error}") from error
  found = _restore(directory, config, mesh)
  there, fresh = _leaves(found), []

  def chosen(path, leaf):
    name = "/".join(path)
    if name in there and there[name].shape == leaf.shape:
      return there[name]
    fresh.append(name)
    return leaf

  params, constants = (
    traverse_util.path_aware_map(chosen, tree)
    for tree in (state.params, state.constants)
  )
  state = state.replace(params=params, constants=constants)
  return state, int(found.step), len(fresh)

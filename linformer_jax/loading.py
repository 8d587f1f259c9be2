"""Loads a run, or an exported model: model, weights and tokenizer.

import linformer_jax

run = linformer_jax.load("runs/smoke")
run.fill("the President of the United <mask>")
model, variables, tokenizer = run
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from ml_collections import config_dict

from linformer_jax import exported, models
from linformer_jax import step as step_lib
from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.parallel import sharding
from linformer_jax.run import (
  best,
  checkpoint,
  config_fields,
  files,
  paths,
  workdir,
)


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

  @functools.cached_property
  def special(self) -> special_lib.Special:
    """The tokenizer's special tokens."""
    return special_lib.of(self.tokenizer)

  def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts as in training: `<s>`, then tokens; or as BERT's rows.

    `<mask>` in a text is the mask token; it replaces a word and the space
    before it. Texts are padded to the model's max_length N. With BERT's special
    tokens a row is `[CLS]`, tokens and `[SEP]`, and `[MASK]` is a mask too.

    Returns:
      (tokens int32 [B, N], mask bool [B, N], True at real tokens).

    Raises:
      ValueError: if a text has more than N - 1 tokens, or N - 2 of BERT's.
    """
    length, special = self.model.config.max_length, self.special
    shape = len(texts), length
    tokens = np.full(shape, special.pad, np.int32)
    mask = np.zeros(shape, bool)
    end = [special.eos] if special.is_bert else []
    added = " and ".join(special.names[: 1 + 2 * len(end) : 2])
    for row, text in enumerate(texts):
      ids = [special.bos, *self._ids(text), *end]
      if len(ids) > length:
        raise ValueError(
          f"text {row} has {len(ids) - 1 - len(end)} tokens; the model takes "
          f"max_length {length}, {added} included: shorten it"
        )
      tokens[row, : len(ids)] = ids
      mask[row, : len(ids)] = True
    return tokens, mask

  def _ids(self, text):
    mask = special_lib.ROBERTA[-1]
    pieces = text.replace(self.special.mask_name, mask).split(mask)
    pieces[:-1] = [piece.removesuffix(" ") for piece in pieces[:-1]]
    ids = []
    for piece in tokenizer_lib.encode(self.tokenizer, pieces):
      ids += [*piece, self.special.mask]
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
    (places,) = np.nonzero(tokens[0] == self.special.mask)
    if not len(places):
      name = self.special.mask_name
      raise ValueError(f"there is no {name} to fill in {text!r}")
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


BEST, LAST = "best", "last"


def step_of(directory, step: int | str | None) -> int | None:
  """Returns the step of a checkpoint, or None for the newest.

  Args:
    directory: the run's folder.
    step: updates completed, 'best' or 'last'; None for the best if the run
      keeps it (`run.keep_best`), and otherwise for the newest.

  Raises:
    ValueError: for another word, or if there is no best checkpoint.
  """
  if step == LAST:
    return None
  if step in (BEST, None):
    found = best.step_of(directory)
    if found is None and step == BEST:
      raise ValueError(
        f"{directory} has kept no best checkpoint: take the last, or train "
        "with run.keep_best"
      )
    return found
  try:
    return int(step)
  except ValueError:
    raise ValueError(
      f"step {step!r} is neither {BEST} nor {LAST} nor a number of updates"
    ) from None


def load(folder: str, step: int | str | None = None) -> Run:
  """Loads a run, or a model in safetensors with its tokenizer.json.

  Needs only the folder, not the text or its token cache. Puts the weights on
  the first device.

  Args:
    folder: folder of a run, on a disk or gs://, or of a model that `./launch.sh
      export` or `transformers` wrote.
    step: of a run: see `step_of`.

  Raises:
    ValueError: if the folder holds neither, or one of another code version.
    checkpoint.CheckpointError: if no checkpoint can be read.
  """
  directory = files.folder(folder, "folder")
  if not paths.in_bucket(folder) and exported.is_there(directory):
    if step is not None:
      raise ValueError(f"{directory} is an exported model, which has no steps")
    found = exported.read(directory)
    variables = jax.tree.map(jnp.asarray, found.pop("variables"))
    return Run(variables=variables, **found)
  config = stored_config(directory)
  mesh = sharding.make_mesh(
    config_dict.ConfigDict({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}),
    jax.devices()[:1],
  )
  state = restore(directory, config, mesh, step)
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
    labels=_labels(directory / workdir.LABELS),
  )


def _labels(path) -> tuple[int | str, ...]:
  try:
    return tuple(json.loads(path.read_text())) if path.exists() else ()
  except (ValueError, TypeError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from error


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


def restore(directory, config, mesh, step=None) -> step_lib.TrainState:
  """Returns a state of a run, on a mesh; `step` is as for `step_of`.

  Raises:
    ValueError: see `step_of`.
    checkpoint.CheckpointError: if no checkpoint can be read.
  """
  step = step_of(directory, step)
  with checkpoint.Checkpoints(directory, read_only=True) as saved:
    restored = saved.restore(step_lib.abstract_state(config, mesh), step)
  if restored is None:
    raise checkpoint.CheckpointError(f"{directory} holds no checkpoint yet")
  return restored[0]

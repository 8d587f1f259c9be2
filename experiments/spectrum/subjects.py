"""The subjects of spectra: imported weights, or checkpoints of a run."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from experiments.spectrum import blocks
from linformer_jax import models, train
from linformer_jax.data.text import source
from linformer_jax.models import weights as weights_lib
from linformer_jax.run import checkpoint, files, workdir


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model and the text that it reads.

  Attributes:
    name: the model's name.
    text: the text's name.
    step: updates completed, None for imported weights.
    config: the encoder's config.
    variables: the encoder's variables.
    weights: SHA-256 of the weights file, or of a checkpoint's arrays.
    tokens: int32 [blocks, N].
  """

  name: str
  text: str
  step: int | None
  config: models.ModelConfig
  variables: Any
  weights: str
  tokens: np.ndarray

  def identity(self) -> dict:
    """Returns JSON that is equal for subjects with equal results."""
    config = self.config
    kinds = dict.fromkeys(layer.name for layer in config.layers)
    return {
      "model": self.name,
      "text": self.text,
      "step": self.step,
      "attention": "+".join(kinds),
      "layers": config.num_layers,
      "heads": config.num_heads,
      "length": self.tokens.shape[1],
      "blocks": self.tokens.shape[0],
      "weights_sha256": self.weights,
      "tokens_sha256": self.digest(len(self.tokens)),
    }

  def digest(self, count: int) -> str:
    """Returns the SHA-256 of the first `count` blocks of tokens."""
    return hashlib.sha256(self.tokens[:count].tobytes()).hexdigest()

  def key(self) -> str:
    """Returns a short file name, independent of the number of blocks."""
    identity = self.identity()
    del identity["blocks"], identity["tokens_sha256"]
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def of_weights(given) -> Subject:
  """Returns the subject of --weights and --text.

  Raises:
    ValueError: for files that are missing or do not fit each other.
  """
  for name in ("vocab", "text"):
    if not getattr(given, name):
      raise ValueError(f"--{name} is needed beside --weights")
  config, variables = weights_lib.load(given.weights, given.heads)
  tokenizer = blocks.wordpiece(given.vocab, lowercase=not given.cased)
  size = tokenizer.get_vocab_size()
  if size > config.vocab_size:
    raise ValueError(
      f"{given.vocab} has {size} tokens, the weights {config.vocab_size}"
    )
  length = given.length or config.max_length
  if not 3 <= length <= config.max_length:
    raise ValueError(
      f"--length={length} tokens: the weights have {config.max_length} "
      "positions, and a block takes at least 3"
    )
  documents = source.files(given.text, "text").train()
  tokens = blocks.spread(list(documents), tokenizer, length, given.blocks)
  path = weights_lib.find(given.weights)
  if path.suffix == ".json":  # The index of several files.
    digest = _digest(variables)
  else:
    with open(path, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
  return Subject(
    name=given.name or "weights",
    text=given.text_name or "text",
    step=None,
    config=config,
    variables=jax.device_put(variables),
    weights=digest,
    tokens=tokens,
  )


def _held_out(corpus, count):
  """Returns at most `count` full validation blocks, shuffled: [count, N]."""
  whole = len(corpus.validation)
  if whole and not corpus.validation[whole - 1]["mask"].all():
    whole -= 1
  if not whole:
    raise ValueError("the validation split has no whole block")
  # The order is fixed, so a larger `count` keeps the first blocks.
  picked = np.random.default_rng(0).permutation(whole)[:count].tolist()
  return np.stack([corpus.validation[i]["tokens"] for i in picked])


def _digest(tree):
  """Returns the SHA-256 of the arrays of a tree."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    found.update(np.asarray(leaf).tobytes())
  return found.hexdigest()


def of_run(given) -> Iterator[Subject]:
  """Yields the subjects of --workdir: its checkpoints, and 0 for its start.

  Raises:
    ValueError: if the folder holds no run or its text is not available.
    checkpoint.CheckpointError: for a step without a checkpoint.
  """
  folder = files.folder(given.workdir)
  stored = workdir.stored_config(folder)
  if stored is None:
    raise ValueError(f"--workdir={folder} holds no run")
  experiment = train.build(config_dict.ConfigDict(stored))
  steps = experiment.steps
  tokens = _held_out(experiment.corpus, given.blocks)
  with checkpoint.Checkpoints(folder, read_only=True) as saved:
    for step in given.steps or sorted({0, *saved.steps()}):
      if step == 0:
        state = steps.init()
      else:
        state, _ = saved.restore(steps.abstract_state, step)
      trees = {"params": state.params, "constants": state.constants}
      variables = {
        name: tree["encoder"]
        for name, tree in trees.items()
        if "encoder" in tree
      }
      yield Subject(
        name=given.name or folder.name,
        text=given.text_name or "validation",
        step=step,
        config=steps.model,
        variables=variables,
        weights=_digest(variables),
        tokens=tokens,
      )

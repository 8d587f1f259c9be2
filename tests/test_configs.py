"""Every config and every argument makes a model, by shapes alone."""

import importlib
import itertools

import jax
import numpy as np
import pytest

from configs import base, linformer, pretrain_small, smoke, transformer
from linformer_jax import model as model_lib
from linformer_jax import sharding, step
from linformer_jax.attention import linformer as linformer_attention
from linformer_jax.attention import projection as projection_lib
from linformer_jax.data import pipeline


def shapes(config):
  """The abstract training state: all shapes, nothing computed."""
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  pipeline.DataConfig(**config.data.to_dict())
  return step.build_steps(config, mesh).abstract_state


@pytest.mark.parametrize(
  "module", [base, linformer, transformer, smoke, pretrain_small]
)
def test_every_config_is_built_and_explained(module):
  config = module.get_config()
  assert shapes(config).params
  assert config.is_locked
  assert "Command" in module.__doc__


def test_every_config_file_is_tested():
  files = {p.stem for p in importlib.resources.files("configs").iterdir()}
  assert files - {"__init__", "__pycache__"} == {
    "base",
    "linformer",
    "pretrain_small",
    "smoke",
    "transformer",
  }


PAPER = [
  f"n={n},k={k},size={size}"
  for n, k, size in itertools.product(
    (512, 1024, 2048, 4096), (64, 128, 256), base.SIZES
  )
]
CHOICES = [
  f"sharing={sharing},projection={projection}"
  for sharing, projection in itertools.product(
    linformer_attention.SHARING, projection_lib.KINDS
  )
]


@pytest.mark.parametrize("argument", PAPER + CHOICES)
def test_every_argument_of_linformer(argument):
  given = dict(pair.split("=") for pair in argument.split(","))
  config = linformer.get_config(argument)
  state = shapes(config)
  n = int(given.get("n", 512))
  positions = state.params["encoder"]["embed"]["positions"]
  assert positions.shape[0] == n + config.model.position_offset
  if given.get("projection", "linear") == "linear":
    matrices = [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
      if "projection" in jax.tree_util.keystr(path)
    ]
    assert {m.shape[-2:] for m in matrices} == {(int(given.get("k", 128)), n)}
  layers, width, *_ = base.SIZES[given.get("size", "base")]
  stack = state.params["encoder"]["layers_0"]["block"]["mlp_in"]["kernel"]
  assert stack.shape[:2] == (layers, width)


@pytest.mark.parametrize("n", [512, 4096])
@pytest.mark.parametrize("size", base.SIZES)
def test_transformer_differs_by_attention_alone(n, size):
  softmax = transformer.get_config(f"n={n},size={size}")
  assert shapes(softmax).params
  ours = linformer.get_config(f"n={n},size={size}")
  softmax.model.attention = "linformer"
  assert softmax.to_dict() == ours.to_dict()


def test_lengths_and_sizes_follow_the_model():
  config = base.get_config()
  config.model.max_length, config.model.vocab_size, config.seed = 2048, 300, 5
  assert config.data.sequence_length == 2048
  assert (config.data.vocab_size, config.data.seed) == (300, 5)


def test_a_length_for_each_layer():
  config = base.get_config()
  config.model.num_layers = 3
  config.model.projected_lengths = (64, 32, 32)
  assert step.model_config(config.model).projected_lengths == (64, 32, 32)


def test_a_typo_fails_at_once():
  with pytest.raises(AttributeError):
    base.get_config().model.embed_dims = 3


@pytest.mark.parametrize(
  "argument, words",
  [
    ("m=3", "'m=3'.*n=..., k=..., sharing"),
    ("n", "'n'"),
    ("n=many", "'many' is not int"),
    ("size=huge", "base, large"),
  ],
)
def test_wrong_arguments(argument, words):
  with pytest.raises(ValueError, match=words):
    linformer.get_config(argument)


def test_the_library_reads_only_fields_that_base_lists():
  fields = set(base.get_config().model.keys()) - {"projected_lengths"}
  assert fields == {
    field.name for field in model_lib.ModelConfig.__dataclass_fields__.values()
  }
  assert np.isclose(base.get_config().data.mask_rate, 0.15)

"""Every config and every argument makes a model, by shapes alone."""

import dataclasses
import importlib
import itertools

import jax
import numpy as np
import pytest

from configs import (
  base,
  causal,
  classification,
  finetune,
  hybrid,
  linformer,
  lra,
  pretrain_small,
  smoke,
  transformer,
)
from linformer_jax import attention, models, step
from linformer_jax.attention import linformer as linformer_attention
from linformer_jax.attention import projection as projection_lib
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from linformer_jax.run import command_line, config_fields
from tests import tiny


def shapes(config):
  """The abstract training state: all shapes, nothing computed."""
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  pipeline.DataConfig(**config.data.to_dict())
  return step.build_steps(config, mesh).abstract_state


MODULES = [
  base,
  hybrid,
  linformer,
  transformer,
  smoke,
  pretrain_small,
  causal,
  classification,
  finetune,
  lra,
]


@pytest.mark.parametrize("module", MODULES)
def test_every_config_is_built_and_explained(module):
  config = module.get_config()
  if module is classification:  # whose data have no default
    config.data.files = "texts.jsonl"
  assert shapes(config).params
  assert config.is_locked
  assert "Command" in module.__doc__


@pytest.mark.parametrize("name", finetune.TASKS)
def test_every_task_of_finetune_has_its_data_and_metric(name):
  config = finetune.get_config(f"task={name}")
  if name == "own":
    config.data.files = "texts.csv"
  pipeline.DataConfig(**config.data.to_dict())
  config.model.num_layers = 1
  task = step.task_of(config)
  assert task.headline == finetune.TASKS[name][-1]
  warmup = config.optimizer.warmup_steps / config.train.num_steps
  assert warmup == pytest.approx(0.06, rel=0.01)


@pytest.mark.parametrize("objective", lra.OBJECTIVES)
@pytest.mark.parametrize("name", lra.TASKS)
def test_every_task_of_the_arena_is_built(name, objective):
  """With rows for its longest texts; pretraining gives the same encoder."""
  config = lra.get_config(f"task={name},objective={objective},folder=x")
  assert config.data.validation_files == "x/valid.jsonl"
  pipeline.DataConfig(**config.data.to_dict())
  task, model = step.task_of(config), step.model_config(config)
  assert model.max_length == lra.TASKS[name][1] + 2
  assert task.short == (objective == "label")
  encoder = step.abstract_shapes(config).params["encoder"]
  label = step.abstract_shapes(lra.get_config(f"task={name}")).params["encoder"]
  assert jax.tree.leaves(encoder) == jax.tree.leaves(label)


def test_reviews_come_from_tfds_unless_there_is_a_folder():
  data = lra.get_config("task=text").data
  assert data.tfds_name == "imdb_reviews" and not data.files
  assert "test" not in data.tfds_validation_split
  assert lra.get_config("task=text,folder=a").data.files == "a/train.jsonl"
  with pytest.raises(ValueError, match="task='x' is not one of listops, text"):
    lra.get_config("task=x")
  with pytest.raises(ValueError, match="objective='x' is not one of label"):
    lra.get_config("objective=x")


def test_finetune_knows_its_tasks():
  with pytest.raises(ValueError, match="'sst' is not one of sst2, imdb"):
    finetune.get_config("task=sst")


def test_every_config_file_is_tested():
  folder = importlib.resources.files("configs")
  files = {p.stem for p in folder.iterdir() if p.suffix == ".py"}
  assert files - {"__init__"} == {
    "base",
    "causal",
    "classification",
    "finetune",
    "hybrid",
    "linformer",
    "lra",
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
  assert set(step.model_config(softmax).layers) == {
    attention.SoftmaxConfig(dropout_rate=0.1)
  }
  ours = linformer.get_config(f"n={n},size={size}")
  base.set_attention(softmax, "linformer")
  assert softmax.to_dict() == ours.to_dict()


@pytest.mark.parametrize("module", [smoke, pretrain_small, causal])
@pytest.mark.parametrize(
  "names",
  [
    "softmax",
    "local",
    "softmax+local",
    "linear",
    "linformer+linear",
    "nystrom+performer",
  ],
)
def test_the_attention_is_an_argument(module, names):
  config = module.get_config(f"attention={names}")
  config_fields.check_names_and_types(config)
  config_fields.check_ranges(config)
  others = module.get_config().to_dict()
  assert config.to_dict() | {"attention": others["attention"]} == others
  assert config.is_locked and config.attention.is_locked
  found = [layer.name for layer in step.model_config(config).layers]
  pattern = names.split("+")
  assert found == pattern * (config.model.num_layers // len(pattern))
  is_causal = all(attention.ATTENTIONS[name].causal for name in pattern)
  if config.task.name == "causal_lm" and not is_causal:
    with pytest.raises(ValueError, match="not causal"):
      shapes(config)
  else:
    paths = jax.tree_util.tree_leaves_with_path(shapes(config).params)
    projected = [
      "projection" in jax.tree_util.keystr(path) for path, _ in paths
    ]
    assert any(projected) == ("linformer" in pattern)


def test_setting_an_attention_keeps_its_fields_and_the_dropout():
  config = smoke.get_config()
  config.attention.dropout_rate = 0.25
  before = config.attention.to_dict()
  base.set_attention(config, "local+linformer")
  mixed = config.attention.to_dict()
  assert mixed.pop("linformer") | {"name": "linformer"} == before
  assert mixed.pop("local") == {"window": 64, "dropout_rate": 0.25}
  assert mixed == {"name": "mixed", "pattern": ("local", "linformer")}
  with pytest.raises(ValueError, match="'locl' is not one of softmax, "):
    base.set_attention(config, "locl+linformer")


def test_flags_of_fields_that_moved_are_understood(capsys):
  given = command_line.make_flags()
  words = ["--config=configs/smoke.py", "--config.model.projected_length=16"]
  words += ["--config.model.attention_dropout_rate=0.25"]
  command_line.parse(given, ["main", *words, "--config.data.mask_rate=0.3"])
  group = given.config.attention
  assert (group.projected_length, group.dropout_rate) == (16, 0.25)
  assert given.config.task.mask_rate == 0.3
  told = capsys.readouterr().out
  assert "model.projected_length is --config.attention.projected_length" in told


def test_fields_of_attentions_by_layer_are_flags():
  given = command_line.make_flags()
  words = ["--config=configs/smoke.py:attention=local+linformer"]
  words += ["--config.attention.local.window=3"]
  words += ["--config.attention.linformer.projected_lengths=(16,)"]
  command_line.parse(given, ["main", *words])
  config_fields.check_names_and_types(given.config)
  local, linformer = step.model_config(given.config).layers
  assert local == attention.LocalConfig(window=3)
  assert (linformer.projected_length, linformer.sharing) == (16, "none")


@pytest.mark.parametrize(
  "name, words",
  [
    ("sequence_length", "data.sequence_length 1024 .* model.max_length 512"),
    ("vocab_size", "data.vocab_size 60000 .* model.vocab_size 50265"),
  ],
)
def test_data_that_do_not_fit_the_model(name, words):
  config = base.get_config()
  config.data[name] = {"sequence_length": 1024, "vocab_size": 60_000}[name]
  with pytest.raises(ValueError, match=words) as error:
    shapes(config)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "projection", ["linear", pytest.param("max_pool", marks=pytest.mark.slow)]
)  # see test_masks
def test_an_update_on_shorter_sequences_is_that_on_padded_ones(projection):
  config = tiny.get_config()
  config.attention.projection = projection
  config.data.sequence_length = 13  # a window has 4
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  steps = step.build_steps(config, mesh)
  state = steps.init()
  variables = {"params": state.params, "constants": state.constants}
  rng = np.random.default_rng(0)
  short = {
    "tokens": rng.integers(5, 300, (2, 13)),
    "positions": np.array([[0, 12], [3, 7]]),
    "targets": rng.integers(5, 300, (2, 2)),
    "weights": np.ones((2, 2), np.float32),
  }
  padded = short | {
    "tokens": np.pad(short["tokens"], [(0, 0), (0, 19)]),
    "mask": np.arange(32)[None].repeat(2, 0) < 13,
  }

  @jax.jit
  @jax.value_and_grad
  def loss(params, batch):
    return steps.task.sums(variables | {"params": params}, batch)["loss"]

  of = [loss(state.params, batch) for batch in (short, padded)]
  for one, other in zip(*map(jax.tree.leaves, of), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_length_for_each_layer():
  config = base.get_config()
  config.model.num_layers = 3
  config.attention.projected_lengths = (64, 32, 32)
  layers = step.model_config(config).layers
  assert [layer.projected_length for layer in layers] == [64, 32, 32]


def test_a_typo_fails_at_once():
  with pytest.raises(AttributeError):
    base.get_config().model.embed_dims = 3
  with pytest.raises(AttributeError):
    base.get_config().attention.windows = 3


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


@pytest.mark.parametrize("module", MODULES)
def test_every_field_has_a_type_and_a_range(module):
  config_fields.check_names_and_types(module.get_config())
  config_fields.check_ranges(module.get_config())


def test_the_library_reads_only_fields_that_base_lists():
  config = base.get_config()
  assert {*config.model, "attention"} == {
    field.name for field in dataclasses.fields(models.ModelConfig)
  }
  # With the defaults of the library, but for dropout.
  defaults = attention.fields("linformer") | {"dropout_rate": 0.1}
  assert config.attention.to_dict() == defaults
  assert np.isclose(config.task.mask_rate, 0.15)

"""Every mesh of eight devices computes what one device does."""

import itertools
import json

import numpy as np
import pytest

from linformer_jax.parallel import sharding
from tests import compiling

EPS = float(np.finfo(np.float32).eps)

# Sharing and projection in turn, other attentions, and other ways through the
# code with them. In blocks of positions, and near rows of other devices, each
# block draws its dropout, and which those are depends on the mesh.
NO_DROPOUT = {"model.dropout_rate": 0.0, "attention.dropout_rate": 0.0}
MODELS = {
  "headwise": {"train.accumulation_steps": 2},
  "none": NO_DROPOUT | {"attention.sharing": "none", "model.query_block": 2},
  "key_value": {
    "attention.sharing": "key_value",
    "model.scan_layers": False,
    "model.norm_position": "pre",
  },
  "layerwise": NO_DROPOUT
  | {
    "attention.sharing": "layerwise",
    "attention.implementation": "flash",
    "model.query_block": 3,
  },
  "convolution": {"attention.projection": "convolution"},
  "mean_pool": {"attention.projection": "mean_pool", "model.remat": True},
  "max_pool": {"attention.projection": "max_pool", "attention.sharing": "none"},
  "random": {"attention.projection": "random"},
  "softmax": {
    "attention": "softmax",
    "attention.implementation": "flash",
    "attention.dropout_rate": 0.0,
  },
  "mixed": {
    "attention": "local+linformer",
    "attention.local.window": 3,
    "attention.local.dropout_rate": 0.0,
    "attention.linformer.local_window": 2,
    "attention.linformer.dropout_rate": 0.0,
    "model.dropout_rate": 0.0,
  },
  "local": NO_DROPOUT
  | {"attention": "local", "attention.window": 2, "model.query_block": 2},
  "linear": {"attention": "linear"},
  "nystrom": {
    "attention": "nystrom",
    "attention.num_landmarks": 6,
    "attention.kernel_size": 5,
    "model.dropout_rate": 0.0,
  },
  "performer": {
    "attention": "performer",
    "attention.num_features": 12,
    "model.remat": True,
  },
  "cosformer": {
    "attention": "cosformer",
    "model.query_block": 2,
    "model.dropout_rate": 0.0,
  },
  "causal": {
    "task": "causal_lm",
    "attention": "softmax+local",
    "attention.softmax.dropout_rate": 0.0,
    "attention.local.window": 4,
    "attention.local.dropout_rate": 0.0,
    "model.dropout_rate": 0.0,
    "model.query_block": 3,
  },
  "transformer_ls": NO_DROPOUT
  | {
    "attention": "transformer_ls",
    "attention.projected_length": 8,
    "attention.window": 3,
    "model.remat": True,
  },
  "luna": {"attention": "luna", "attention.projected_length": 8},
  "luna in turn": {
    "attention": "luna+local",
    "attention.luna.projected_length": 6,
    "attention.luna.sharing": "none",
    "attention.luna.dropout_rate": 0.0,
    "attention.local.window": 2,
    "attention.local.dropout_rate": 0.0,
    "model.num_layers": 4,
    "model.scan_layers": False,
    "model.norm_position": "pre",
    "model.dropout_rate": 0.0,
    "model.remat": True,
  },
  "fnet": {"attention": "fnet", "model.norm_position": "pre"},
  "fnet in blocks": {
    "attention": "fnet",
    "model.dropout_rate": 0.0,
    "model.query_block": 3,
  },
  "adamra": {
    "attention": "adamra",
    "attention.ratios": (1, 4),
    "attention.compression": "linear",
    "model.dropout_rate": 0.0,
    "model.query_block": 2,
  },
  "adamra hard": {
    "attention": "adamra",
    "attention.ratios": (1, 4),
    "attention.route": "hard",
    "attention.heads": "coarse_to_fine",
    "attention.balance": 0.5,
    "train.accumulation_steps": 2,
    "model.remat": True,
  },
  "causal sums": {
    "task": "causal_lm",
    "attention": "performer+cosformer",
    "model.dropout_rate": 0.0,
    "model.query_block": 3,
  },
  "causal slots": NO_DROPOUT
  | {
    "task": "causal_lm",
    "attention": "causal_linformer",
    "attention.block_length": 2,
    "attention.projected_length": 1,
    "attention.sharing": "none",
    "model.query_block": 2,
  },
  "causal pyramid": NO_DROPOUT
  | {
    "task": "causal_lm",
    "attention": "causal_linformer",
    "attention.block_length": 2,
    "attention.projected_length": 1,
    "attention.levels": 2,
    "attention.kept_blocks": 2,
    "attention.previous_block": False,
    "model.remat": True,
  },
  "kernel": NO_DROPOUT
  | {"attention.implementation": "pallas_tpu", "model.query_block": 3},
  "documents": {
    "task": "causal_lm",
    "task.document_mask": True,
    "attention": "softmax+local+causal_linformer",
    "attention.softmax.dropout_rate": 0.0,
    "attention.local.dropout_rate": 0.0,
    "attention.local.window": 3,
    "attention.causal_linformer.dropout_rate": 0.0,
    "attention.causal_linformer.block_length": 2,
    "attention.causal_linformer.projected_length": 1,
    "attention.causal_linformer.levels": 2,
    "model.dropout_rate": 0.0,
    "model.num_layers": 3,
    "model.query_block": 2,
  },
  "matching": {"task": "matching"},
}
# Sizes that eight divides; random numbers do not depend on the mesh.
COMMON = {
  "model.num_heads": 8,
  "model.vocab_size": 304,
}
MESHES = [
  sizes
  for sizes in itertools.product((1, 2, 4, 8), repeat=4)
  if np.prod(sizes) == 8
]
# Of the batch, the sequence and the width.
QUICK = [((1, 2, 2, 2), "headwise")]
# With --slow: every mesh, and every model divided along every axis.
ALL = [
  (mesh, model)
  for (i, mesh), (j, model) in itertools.product(
    enumerate(MESHES), enumerate(MODELS)
  )
  if (i + j) % 5 == 0 and (mesh, model) not in QUICK
]
PURE_DATA = (8, 1, 1, 1), "headwise"
if PURE_DATA not in ALL:
  ALL.append(PURE_DATA)


def case(mesh, model):
  return f"{model}-{'x'.join(map(str, mesh))}"


def compute(folder, pairs):
  """Runs the pairs, each model on one device too."""
  cases = {}
  for mesh, model in pairs:
    fields = COMMON | MODELS[model]
    on = {f"mesh.{a}": n for a, n in zip(sharding.AXES, mesh, strict=True)}
    cases[model] = (fields, 1)
    cases[case(mesh, model)] = (fields | on, 8)
  compiling.on_eight_devices("eight_devices", folder, json.dumps(cases))
  return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
  return compute(tmp_path_factory.mktemp("mesh"), QUICK)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
  return compute(tmp_path_factory.mktemp("meshes"), ALL)


def facts(folder, name):
  return json.loads((folder / f"{name}.json").read_text())


def assert_same(folder, mesh, model):
  one = np.load(folder / f"{model}.npz")
  eight = np.load(folder / f"{case(mesh, model)}.npz")
  assert set(one) == set(eight)
  gradients = [name for name in one if name.startswith("gradient [")]
  largest = max(np.abs(one[name]).max() for name in gradients)
  assert largest > 0
  for name in one:
    if name in gradients:
      # Sums over 16 * 32 tokens, in another order.
      bound = dict(rtol=0, atol=512 * EPS * largest)
    else:
      bound = dict(rtol=32 * EPS)
    np.testing.assert_allclose(eight[name], one[name], **bound, err_msg=name)


@pytest.mark.parametrize(
  "mesh, model", QUICK, ids=itertools.starmap(case, QUICK)
)
def test_eight_devices_give_the_losses_and_gradients_of_one(quick, mesh, model):
  assert_same(quick, mesh, model)


@pytest.mark.slow
@pytest.mark.parametrize("mesh, model", ALL, ids=itertools.starmap(case, ALL))
def test_every_mesh_gives_the_losses_and_gradients_of_one(every, mesh, model):
  assert_same(every, mesh, model)


def test_every_mesh_is_here_and_divides_every_model_along_every_axis():
  pairs = QUICK + ALL
  assert {mesh for mesh, _ in pairs} == set(MESHES)
  for name in MODELS:
    sizes = [mesh for mesh, model in pairs if model == name]
    assert np.all(np.max(sizes, axis=0) > 1), name


def test_each_of_eight_devices_does_an_eighth(quick):
  one, eight = facts(quick, "headwise"), facts(quick, "headwise-1x2x2x2")
  assert one["rows"] == [[16, 32]] and eight["rows"] == [[8, 16]] * 8
  assert eight["flops"] < one["flops"] / 4  # parameters are updated on each
  assert "all-reduce" in eight["collectives"] and not one["collectives"]
  assert eight["arguments"] < one["arguments"]


@pytest.mark.slow
def test_on_the_data_axis_nothing_but_sums_is_exchanged(every):
  found = facts(every, "headwise-8x1x1x1")
  assert found["rows"] == [[2, 32]] * 8
  assert set(found["collectives"]) == {"all-reduce"}


def test_parameters_are_divided(quick):
  one, eight = facts(quick, "headwise"), facts(quick, "headwise-1x2x2x2")
  assert eight["arguments"] < one["arguments"] / 3


def test_the_state_is_donated_on_every_device(quick):
  for name in ("headwise", "headwise-1x2x2x2"):
    found = facts(quick, name)
    assert found["alias"] > 0.9 * found["arguments"]

"""Meshes, and what fits them."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from linformer_jax import step
from linformer_jax.parallel import sharding
from tests import tiny


def mesh_config(**sizes):
  config = tiny.get_config().mesh
  config.update(sizes)
  return config


@pytest.mark.parametrize(
  "devices, sizes, message",
  [
    (8, dict(data=3), "'data': 3.*needs 3 devices, but there are 8"),
    (8, dict(data=16), "needs 16 devices, but there are 8"),
    (8, dict(data=0), "must be positive"),
    (8, dict(data=-2), "must be positive"),
    (8, dict(fsdp=-1), "only one axis may be -1"),
    (8, dict(fsdp=3), "'fsdp': 3.*needs 6 devices, but there are 8"),
    (1, dict(sequence=2), "needs 2 devices, but there are 1"),
  ],
)
def test_meshes_that_do_not_fit(devices, sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(mesh_config(**sizes), [None] * devices)


def test_mesh_takes_what_is_left():
  mesh = sharding.make_mesh(mesh_config(), jax.devices()[:1])
  assert dict(mesh.shape) == dict.fromkeys(sharding.AXES, 1)


@pytest.mark.parametrize(
  "size, parts, message",
  [
    (12, 1, "size 12 is not divisible by mesh.data=4 . mesh.fsdp=2$"),
    (16, 4, "mesh.fsdp=2 . train.accumulation_steps=4$"),
    (0, 1, "must be positive"),
    (8, 0, "must be positive"),
  ],
)
def test_batches_that_do_not_divide(size, parts, message):
  mesh = AbstractMesh((4, 2, 1, 1), sharding.AXES)
  with pytest.raises(ValueError, match=message) as error:
    sharding.check_batch("train.batch_size", size, mesh, parts)
  assert "\n" not in str(error.value)
  sharding.check_batch("train.batch_size", 32, mesh, 4)


@pytest.mark.parametrize(
  "sizes, fields, message",
  [
    (dict(sequence=3), {}, "data.sequence_length 32 .* mesh.sequence=3"),
    (dict(tensor=4), {}, "model.num_heads 2 .* mesh.tensor=4"),
    (
      dict(tensor=8),
      {"model.num_heads": 8},
      "model.vocab_size 300 .* mesh.tensor=8",
    ),
    (dict(fsdp=3), {}, "embed_dim 32 .* mesh.fsdp=3 . mesh.sequence=1"),
    (
      dict(sequence=16),
      {"attention.projection": "mean_pool"},
      "projected_length 8 .* mesh.sequence=16",
    ),
    (
      dict(sequence=8),
      {"attention.projection": "mean_pool", "model.max_length": 64},
      "data.sequence_length 32 .* 8 rows of a window . mesh.sequence=8",
    ),
  ],
)
def test_models_that_a_mesh_does_not_divide(sizes, fields, message):
  config = tiny.get_config()
  config.update_from_flattened_dict(fields)
  shape = [sizes.get(axis, 1) for axis in sharding.AXES]
  mesh = AbstractMesh(tuple(shape), sharding.AXES)
  with pytest.raises(ValueError, match=message) as error:
    sharding.check_model(step.model_config(config), 32, mesh)
  assert "\n" not in str(error.value)


class Device:
  def __init__(self, process):
    self.process_index = process


class Mesh:
  """Devices of several processes, as their numbers and a shape say."""

  def __init__(self, shape, processes):
    self.devices = np.array([Device(p) for p in processes]).reshape(shape)
    self.shape = dict(zip(sharding.AXES, shape, strict=True))


@pytest.mark.parametrize(
  "shape, processes, shares",
  [
    ((4, 1, 1, 1), [0, 0, 1, 1], [(0, 2), (1, 2)]),
    ((2, 2, 1, 1), [0, 1, 2, 3], [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((1, 1, 4, 1), [0, 0, 1, 1], [(0, 1), (0, 1)]),
    ((2, 1, 2, 1), [0, 1, 2, 3], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((4, 1, 1, 1), [0, 1, 0, 1], [(0, 2), (1, 2)]),
  ],
)
def test_rows_are_read_once_by_all_who_need_them(
  shape, processes, shares, monkeypatch
):
  mesh = Mesh(shape, processes)
  for process, expected in enumerate(shares):
    monkeypatch.setattr(jax, "process_index", lambda here=process: here)
    assert sharding.share(mesh) == expected


def test_shares_that_overlap_in_part_are_refused():
  shape, processes = (2, 1, 3, 1), [0, 0, 0, 0, 1, 1]
  mesh = Mesh(shape, processes)
  with pytest.raises(ValueError, match="share parts of a batch unevenly"):
    sharding.share(mesh)

"""What a compiler tells of a program, and the largest batch that fits."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from linformer_jax.parallel import sharding
from linformer_jax.tools import aot
from tests import tiny


def counted(function):
  calls = []

  def bytes_of(size):
    calls.append(size)
    return function(size)

  return bytes_of, calls


@pytest.mark.parametrize("known", [{}, {0: 100}, {0: 100, 4: 128}, {40: 380}])
@pytest.mark.parametrize("limit", [100, 107, 380, 500, 506, 507, 1e9])
def test_largest_of_affine_memory(limit, known):
  bytes_of, calls = counted(lambda size: 100 + 7 * size)
  expected = min(200, max(0, int((limit - 100) // 7)))
  assert aot.largest(bytes_of, limit, 200, known) == expected
  assert len(calls) <= 6 and len(set(calls)) == len(calls)
  tried = set(calls) | set(known)
  assert {expected, expected + 1} & set(range(1, 201)) <= tried


@pytest.mark.parametrize(
  "function",
  [
    lambda size: 100 + 7 * size + size**2 / 50,
    lambda size: 100 + 7 * -(-size // 8) * 8,  # padded to eights
    lambda size: min(100 + 7 * size, 650 + size / 100),  # packed when full
    lambda size: 100 + 7 * size if size < 70 else float("inf"),
    lambda size: 100 if size < 33 else 1000,
  ],
)
@pytest.mark.parametrize("step", [1, 4])
def test_largest_of_other_memory(function, step):
  bytes_of, calls = counted(function)
  fitting = [s for s in range(step, 4001, step) if function(s) <= 660.5]
  assert aot.largest(bytes_of, 660.5, 4000, {0: 100}, step) == fitting[-1]
  assert len(calls) <= 26 and all(size % step == 0 for size in calls)


def test_largest_when_nothing_fits():
  bytes_of, calls = counted(lambda size: 100 + size)
  assert aot.largest(bytes_of, 99, 1000) == 0
  assert aot.largest(bytes_of, 99, 1000, {0: 100, 1: 101}) == 0
  assert len(calls) < 15


@pytest.mark.parametrize(
  "message, needed",
  [
    ("HLO temporaries (608.00G) exceeds available HBM (15.75G).", 608 * 2**30),
    ("Used 21.06G of 15.75G hbm. Exceeded hbm", 21.06 * 2**30),
    ("Used 512.0M of 15.75G hbm.", 2**29),
    ("Out of scoped memory", float("inf")),
  ],
)
def test_what_the_compiler_says_it_needs(message, needed):
  assert aot._needed(message) == needed


@pytest.mark.parametrize(
  "topology, message",
  [
    ("v5e", "neither h100 nor GENERATION:SHAPE, such as .*v5e:4x4"),
    ("v5e:4by4", "neither"),
    ("v5p:4x4", "3 dimensions and at most 6144 chips, such as v5p:2x2x1"),
    ("v5e:16x32", "at most 256 chips"),
    ("v6e:0x4", "does not exist"),
  ],
)
def test_topologies_that_do_not_exist(topology, message):
  with pytest.raises(ValueError, match=message):
    aot.devices(topology)


@pytest.mark.parametrize(
  "topology, message", [("v5e:4x4", "pip install libtpu"), ("h100", "cuda13")]
)
def test_compilers_that_are_not_there(topology, message, monkeypatch):
  def missing(*unused, **kwargs):
    raise NotImplementedError

  monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(aot.topologies, "get_topology_desc", missing)
  with pytest.raises(ValueError, match=message):
    aot.devices(topology)


@pytest.mark.tpu
@pytest.mark.parametrize(
  "topology, chips",
  [("v5e:1", 1), ("v5e:4x4", 16), ("v4:2x2x1", 4), ("v5p:2x2x1", 4)]
  + [("v6e:2x2", 4)],
)
def test_slices(topology, chips):
  devices = aot.devices(topology)
  assert len(devices) == chips
  assert aot.capacity(devices[0]) > 15 * 2**30
  with pytest.raises(ValueError, match="'v5e:3x3' does not exist"):
    aot.devices("v5e:3x3")


@pytest.mark.tpu
def test_out_of_memory_is_a_result():
  (device,) = aot.devices("v5e:1")
  whole = jax.sharding.SingleDeviceSharding(device)
  x = jax.ShapeDtypeStruct((64, 2**28), jnp.float32, sharding=whole)
  report = aot.compile_report(jax.jit(lambda x: x + 1), x)
  assert report.exhausted and report.peak == 2 * 64 * 2**30
  assert report.peak > aot.capacity(device)


class Compiled:
  """A program whose text the compiler refuses to give."""

  def __init__(self, why):
    self.why = why

  def as_text(self):
    raise jax.errors.JaxRuntimeError(self.why)


def test_a_program_that_is_not_printed():
  why = "INTERNAL: async-update instruction should have 1 operands but sees 3"
  assert aot._collectives(Compiled(why)) is None
  with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
    aot._collectives(Compiled("INTERNAL: something else"))


@pytest.mark.tpu
def test_a_sum_over_chips_is_counted():
  mesh = sharding.make_mesh(tiny.get_config().mesh, aot.devices("v5e:2x2"))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  x = jax.ShapeDtypeStruct((8, 1000), jnp.float32, sharding=rows)
  whole = NamedSharding(mesh, PartitionSpec())
  total = jax.jit(lambda x: x.sum(0), out_shardings=whole)
  assert aot.compile_report(total, x).collectives == {"all-reduce": 4 * 1000}
  copy = jax.jit(lambda x: x, out_shardings=whole)
  gathered = aot.compile_report(copy, x).collectives
  assert gathered == {"all-gather": 4 * 8 * 1000}


CUDA = """
from linformer_jax.tools import aot, plan
from tests import tiny
devices = aot.devices("h100")
report = plan.compile_update(tiny.get_config(), devices)
assert not report.exhausted and report.temporaries > 0, report
assert report.peak < aot.capacity(devices[0]) == 84929347584
assert report.collectives == {}, report
"""


@pytest.mark.skipif(
  not aot.importlib.util.find_spec("jax_plugins")
  or not aot.importlib.util.find_spec("jax_plugins.xla_cuda13"),
  reason="JAX's CUDA plugin is missing",
)
def test_h100():
  """In a process of its own: the plugin is found when JAX starts."""
  subprocess.run(
    [sys.executable, "-c", CUDA],
    check=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )

"""What plan tells: exact bytes, counts over all layers, the largest batch."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from linformer_jax import models, step
from linformer_jax.parallel import sharding
from linformer_jax.tools import aot, plan
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


def test_kept_for_backward_counts_what_grows_with_the_batch():
  """Attention weights [H, N, K] and their mask in each layer; no parameters."""

  def kept(**fields):
    config = tiny.get_config()
    config.model.dropout_rate = config.attention.dropout_rate = 0.0
    config.update_from_flattened_dict(
      {name.replace("__", "."): x for name, x in fields.items()}
    )
    return plan.bytes_kept(
      step.build_steps(config, sharding.make_mesh(config.mesh))
    )

  layer = kept(model__num_layers=2) - kept(model__num_layers=1)
  assert kept(model__num_layers=5) == kept(model__num_layers=2) + 3 * layer
  weights = 2 * 32 * 8
  assert layer > 4 * weights
  assert kept(attention__dropout_rate=0.5) >= kept() + 2 * weights
  assert kept(model__remat=True) < kept()
  # Of 1000 more subwords float32 scores at 5 positions, and not 1000 rows [M].
  more = kept(model__vocab_size=1300) - kept(model__vocab_size=300)
  assert more in (1000 * 5 * 4, 2 * 1000 * 5 * 4, 3 * 1000 * 5 * 4)


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


@pytest.mark.tpu
def test_memory_and_collectives_of_the_update_of_a_slice():
  config, devices = tiny.get_config(), aot.devices("v5e:2x2")
  steps = step.build_steps(config, sharding.make_mesh(config.mesh, devices))
  state = steps.abstract_state
  parameters = 4 * models.num_parameters(state.params)
  assert plan.bytes_per_device(state.params) == parameters
  moments = plan.bytes_per_device(state.opt_state)
  assert 2 * parameters <= moments <= 2 * parameters + 64  # and counters
  assert plan.bytes_per_device(steps.abstract_batch) == 8 // 4 * 4 * (32 + 15)

  report = plan.compile_update(config, devices)
  exact = plan.bytes_per_device((state, steps.abstract_batch))
  assert exact <= report.arguments  # padded to the tiles of the memory
  assert report.peak == (
    report.arguments + report.outputs - report.aliased + report.temporaries
  )
  # The sum of gradients, all at once or layer by layer; losses; the tied
  # embeddings get a gradient from either end. No row of the table of positions
  # that is not read has one.
  row = 4 * config.model.embed_dim
  table = state.params["encoder"]["embed"]["positions"]
  read = parameters - row * (len(table) - config.data.sequence_length)
  embeddings = row * config.model.vocab_size
  reduced = report.collectives["all-reduce"]
  assert read <= reduced <= read + embeddings + 64


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


@pytest.mark.tpu
def test_counts_extrapolate_to_deeper_stacks():
  config = tiny.get_config()
  config.model.num_layers = 3
  config.attention.projected_lengths = (4, 8, 8)
  devices = aot.devices("v5e:1")
  flops, traffic = plan.counts(config, devices)
  config.model.scan_layers = False
  unrolled = plan.compile_update(config, devices)
  assert flops == pytest.approx(unrolled.flops, rel=0.02)
  assert traffic == pytest.approx(unrolled.traffic, rel=0.1)
  config.model.scan_layers = True
  looped = plan.compile_update(config, devices)
  assert looped.flops < 0.9 * flops  # the reason for all this


def test_counts_add_what_each_attention_takes(monkeypatch):
  cost = {"local": 1.0, "softmax": 10.0, "linear": 100.0}
  compiled = []

  def compile_update(config, devices, model):
    assert not model.scan_layers and not model.query_block
    compiled.append([layer.name for layer in model.layers])
    flops = 5 + sum(cost[name] for name in compiled[-1])
    return aot.Report(0, False, 1, 1, 1, 0, flops, 2 * flops, {})

  monkeypatch.setattr(plan, "compile_update", compile_update)
  config = tiny.get_config("local+softmax+linear")
  config.model.num_layers = 6
  config.model.query_block = 8
  expected = 5 + 2 * sum(cost.values())
  assert plan.counts(config, ["a device"]) == (expected, 2 * expected)
  assert len(compiled) == 4 and compiled[0] == ["local"]


@pytest.mark.tpu
@pytest.mark.parametrize("batch, verdict", [(8, "fits"), (64, "TOO BIG")])
def test_the_report(batch, verdict, monkeypatch, capsys):
  def compiled(config, devices, model=None):
    """1 GiB, and one more a sequence; 5 FLOPs, and 100 more a layer."""
    model = model or step.model_config(config)
    peak = 2**30 * (1 + config.train.batch_size // len(devices))
    if peak > 2**34:
      return aot.Report(peak, exhausted=True)
    layers = 1 if model.scan_layers else model.num_layers
    flops = (5 + 100 * layers) * 1e9
    return aot.Report(peak, False, 1, 1, 1, peak, flops, flops, {"x": 2e9})

  monkeypatch.setattr(plan, "compile_update", compiled)
  config = tiny.get_config()
  config.train.batch_size = batch
  config.model.num_layers = 9
  plan.run(config, "v5e:2x2")
  lines = [
    " ".join(line.split()) for line in capsys.readouterr().out.split("\n")
  ]
  told = "\n".join(lines)
  assert f"memory of a device: {verdict}" in told
  assert "largest batch that fits 14 sequences a device" in told
  assert f"peak {1 + batch // 4:.3f} GiB the compiler's estimate" in told
  assert ("FLOPs compiled 905.0 G the" in told) == (verdict == "fits")
  assert ("x 2.000 GB" in told) == (verdict == "fits")


@pytest.mark.tpu
@pytest.mark.parametrize(
  "group, field, value, message",
  [
    ("train", "batch_size", 6, r"6 is not divisible by mesh\.data=4"),
    ("mesh", "tensor", 4, r"num_heads 2 is not divisible by mesh\.tensor=4"),
    ("mesh", "data", 3, "3 devices, but there are 4"),
  ],
)
def test_configs_that_do_not_fit_the_slice(group, field, value, message):
  config = tiny.get_config()
  config[group][field] = value
  with pytest.raises(ValueError, match=message):
    plan.run(config, "v5e:2x2")


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

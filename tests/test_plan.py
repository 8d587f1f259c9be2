"""What plan tells: bytes of a device, counts over all layers, what fits."""

import pytest

from linformer_jax import models, step
from linformer_jax.parallel import sharding
from linformer_jax.tools import aot, plan
from tests import tiny


@pytest.mark.slow
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

"""The compiled topologies: the page shows them, and they say what it claims."""

import dataclasses

import pytest

from experiments import page as page_lib
from experiments.topologies import long, measure, render
from linformer_jax import step
from linformer_jax.parallel import sharding
from linformer_jax.tools import aot, plan
from tests import tiny


@pytest.fixture(scope="module")
def found():
  return measure.records()


def test_the_page_is_rendered_from_the_committed_results(found):
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.sections(found, long.records())) == page


def test_rows_fit(found):
  assert set(found) == set(measure.rows())
  for row, record in found.items():
    assert record["peak"] <= record["capacity"], row


def test_tokens_of_a_chip_are_the_same_in_a_group(found):
  for row, record in found.items():
    if row.group != "million":
      assert record["batch"] * row.n == measure.TOKENS * record["devices"], row


def test_a_million_tokens_exchange_the_same_on_any_slice(found):
  """Parameters alone: neither n nor the number of chips is in it, but for E."""
  sizes = [
    record["collectives"]["all-reduce"]
    for row, record in found.items()
    if row.group == "million"
  ]
  assert max(sizes) < 1.05 * min(sizes)


def test_float32_sums_take_four_bytes_a_parameter(found):
  """By default kernels, which are two thirds of the parameters, take two."""
  for row, record in found.items():
    if row.group == "float32":
      params = record["state_bytes"] / 12  # with two averages of Adam
      default = found[dataclasses.replace(row, group="chips")]
      for of, low, high in ((record, 3.99, 4.01), (default, 2.6, 2.7)):
        assert low < of["collectives"]["all-reduce"] / params < high
      assert record["collectives"].keys() == default["collectives"].keys()


def test_updates_on_very_long_sequences_were_run_and_learn():
  lengths = []
  for record in long.records():
    if not record.get("out_of_memory"):
      before, after = record["losses"]
      assert after < before
      lengths.append(record["n"])
  assert max(lengths) >= 2**19


def test_links_of_an_all_reduce_carry_it_twice():
  record = {
    "device": "TPU v5 lite",
    "collectives": {
      "all-reduce": 200_000_000_000,
      "all-gather": 100_000_000_000,
    },
    "mesh": {"data": 8, "fsdp": 1, "sequence": 1, "tensor": 1},
    "flops_needed": 197e12,
    "bytes_accessed": 819e9 / 2,
    "batch": 10,
    "n": 512,
  }
  limits = render.expected(record)
  assert limits == {"products": 1.0, "memory": 0.5, "links": 2.5}
  assert render.tokens_per_second(record, overlap=True) == 5120 / 2.5
  assert render.tokens_per_second(record, overlap=False) == 5120 / 3.5


@pytest.mark.tpu
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x2"])
@pytest.mark.parametrize("axes", [{}, {"sequence": 2, "tensor": 2}])
def test_the_update_compiles_for_a_slice(topology, axes):
  config, devices = tiny.get_config(), aot.devices(topology)
  config.mesh.update(axes)
  mesh = sharding.make_mesh(config.mesh, devices)
  steps = step.build_steps(config, mesh)
  exact = plan.bytes_per_device((steps.abstract_state, steps.abstract_batch))
  report = plan.compile_update(config, devices)
  assert exact <= report.arguments < report.peak < aot.capacity(devices[0])
  assert report.collectives["all-reduce"] > 0


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "topology",
  [pytest.param("v5e:2x4", marks=pytest.mark.hour), "v5p:2x2x2"],
)
def test_a_row_of_roberta_base_comes_out_again(topology, found):
  """Minutes each; within 2%, for another libtpu packs differently."""
  row = measure.Row("chips", topology, "base", "linformer", 512, 128)
  again = measure.measure(row)
  for name in ("arguments", "outputs", "flops_needed", "state_bytes"):
    assert again[name] == found[row][name]
  assert again["peak"] == pytest.approx(found[row]["peak"], rel=0.02)

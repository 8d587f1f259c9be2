"""The compiled topologies: the page shows them, and they say what it claims."""

import pytest

from experiments import pages
from experiments.topologies import measure, render


@pytest.fixture(scope="module")
def found():
  return measure.records()


def test_pages_are_rendered_from_the_committed_results(found):
  parts = render.sections(found)
  for path in render.PAGES:
    page = path.read_text()
    assert pages.renew(page, parts) == page


def test_rows_fit(found):
  assert found and set(found) <= set(measure.rows())
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

"""With the sequence on several devices traffic does not grow with it."""

import itertools
import json

import pytest

from linformer_jax.attention import linformer, projection
from tests import collective_bytes as sizes
from tests import compiling

FLOAT = 4  # bytes
ROWS = FLOAT * sizes.BATCH * sizes.K * sizes.WIDTH  # [B, K, M] or [B, K, H, D]
WINDOW, BLOCK = 3, 8


def projected(*, model=None, **fields):
  return "linformer", {"projected_length": sizes.K, **fields}, model or {}


QUICK = {
  "headwise": projected(),
  "key_value": projected(sharing="key_value"),
  "softmax": ("softmax", {}, {}),
  "local": ("local", {"window": WINDOW}, {}),
  "causal slots": (
    "causal_linformer",
    {"block_length": BLOCK, "projected_length": 1},
    {},
  ),
}
ALL = {
  f"{kind} {sharing}": projected(projection=kind, sharing=sharing)
  for kind, sharing in itertools.product(projection.KINDS, linformer.SHARING)
  if (kind, sharing) not in (("linear", "headwise"), ("linear", "key_value"))
} | {
  "blocks": projected(implementation="flash", model={"query_block": 2}),
  "remat of pre-norm": projected(
    model={"norm_position": "pre", "query_block": 3, "remat": True}
  ),
  "linear": ("linear", {}, {}),
  "resolutions": ("adamra", {"ratios": (1, 4)}, {}),
  "performer": ("performer", {"num_features": 12}, {}),
  "cosformer": ("cosformer", {}, {}),
  "nystrom": ("nystrom", {"num_landmarks": 6, "kernel_size": WINDOW}, {}),
  "local window in blocks": projected(
    local_window=WINDOW, model={"query_block": 2}
  ),
  "transformer_ls": (
    "transformer_ls",
    {"projected_length": sizes.K, "window": WINDOW},
    {},
  ),
  "luna": ("luna", {"projected_length": sizes.K}, {}),
  "local in blocks": ("local", {"window": WINDOW}, {"query_block": 3}),
}


def measure(cases):
  printed = compiling.on_eight_devices("collective_bytes", json.dumps(cases))
  return json.loads(printed)


@pytest.fixture(scope="module")
def quick():
  return measure(QUICK)


@pytest.fixture(scope="module")
def every():
  return measure(ALL)


def assert_constant(found):
  for short, long in found.values():
    assert short and short == long


@pytest.mark.parametrize("name", ["headwise", "key_value", "local"])
def test_traffic_of_a_layer_does_not_depend_on_n(quick, name):
  assert_constant(quick[name])


def test_softmax_attention_exchanges_the_sequence(quick):
  for short, long in quick["softmax"].values():
    assert long["all-gather"] == 16 * short["all-gather"]


def test_forward_exchanges_the_projected_rows_alone(quick):
  """E X and F X in a layer; once where E = F. And the any() of the mask."""
  few = sizes.BATCH * sizes.K  # bytes of bools
  for name, times in (("headwise", 2), ("key_value", 1)):
    short, _ = quick[name]["forward"]
    assert set(short) == {"all-reduce"}
    assert times * ROWS <= short["all-reduce"] <= times * ROWS + 4 * few


def test_a_window_exchanges_the_rows_at_the_borders_alone(quick):
  """Keys, values and mask of `WINDOW` rows, to either neighbor."""
  short, _ = quick["local"]["forward"]
  rows = 2 * sizes.BATCH * WINDOW * (2 * FLOAT * sizes.WIDTH + 1)
  assert short == {"collective-permute": rows}


def test_causal_blocks_exchange_their_slots_and_the_rows_at_the_borders(quick):
  """And which slots saw a real row, and which rows are real, as bools."""
  a_row = sizes.BATCH * (2 * FLOAT * sizes.WIDTH + 1)  # a key, a value, a bool
  for n, found in zip(
    sizes.LENGTHS, quick["causal slots"]["forward"], strict=True
  ):
    assert found == {
      "all-gather": n // BLOCK * a_row,
      "collective-permute": BLOCK * a_row,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_no_way_through_a_layer_depends_on_n(every, name):
  if name.startswith(("adaptive_pool", "nystrom")):
    # To count the real rows before each, devices exchange the mask, as int32.
    for way, n in itertools.product(every[name].values(), range(2)):
      mask = FLOAT * sizes.BATCH * sizes.LENGTHS[n]
      assert way[n].pop("all-gather") == mask
  short, long = every[name]["forward"]
  assert short and short == long
  if name.startswith("convolution"):
    # Its kernel [N / K, D, D] grows with n, and so does the sum over devices
    # of its gradient, as that of any parameter.
    return
  short, long = every[name]["backward"]
  assert short == long

"""Masks are bool or 0 and 1 wherever they enter; anything else is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.attention import masks, ops
from linformer_jax.attention import projection as projection_lib
from linformer_jax.attention.ops import flash, window
from tests import arrays
from tests.test_masks import (
  ALL_KINDS,
  MASK,
  H,
  K,
  M,
  N,
  make_attention,
  make_block,
)

B, D = len(MASK), M // H
X, MEMORY = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
ROWS = arrays.draw(B, N, H, D)  # by head; BY_HEAD is the same as flash takes it
BY_HEAD = ROWS.swapaxes(1, 2)
TOKENS = np.arange(B * N).reshape(B, N) % 10


def of_module(module, *args):
  variables = arrays.filled(module, *args)
  return lambda mask: module.apply(variables, *args, mask=mask)


def of_memory(kind):
  return of_module(make_attention(kind, "headwise"), X, MEMORY)


def of_summary(kind):
  module = make_attention(kind, "headwise")
  variables = arrays.filled(module, X)
  return lambda mask: module.apply(variables, X, mask, method="summarise")


def of_local_window():
  return of_module(
    attention.LinformerSelfAttention(H, N, K, "headwise", local_window=2), X
  )


def of_model(module, layer, **fields):
  config = models.ModelConfig(10, N, 2, M, H, 16, layer, **fields)
  return of_module(module(config), X if module is models.Encoder else TOKENS)


def of_projection(kind):
  shape = projection_lib.weights_shape(kind, N, K, D)
  weights = None if shape is None else arrays.draw(*shape)
  by = attention.Projection(kind, N, K, weights)

  def project(mask):
    rows, slots = attention.project_sequence(ROWS, by, mask)
    return rows, slots, projection_lib.slot_mask(by, mask)

  return project


def of_attention(dtype="float32", **kwargs):
  rows = jnp.asarray(ROWS, dtype)
  return functools.partial(
    attention.projected_attention, rows, rows + 1, rows - 1, **kwargs
  )


def of_near(mask, slots=None):
  near = window.halo(ROWS, ROWS, mask, 2).around(0, N)
  return window.attend(ROWS, near, (BY_HEAD, BY_HEAD, slots))


def of_slots(mask):
  return of_near(None, mask)


KINDS_ALONE = ("softmax", "feature map", *projection_lib.KINDS)
# Name -> a function without arguments that makes a function of a mask.
ENTRIES = {
  f"{kind} {sharing}": lambda kind=kind, sharing=sharing: of_module(
    make_attention(kind, sharing), X
  )
  for kind, sharing in ALL_KINDS
}
for _kind in KINDS_ALONE:
  for _make in (of_memory, of_summary):
    ENTRIES[f"{_make.__name__} {_kind}"] = functools.partial(_make, _kind)
for _kind in projection_lib.KINDS:
  ENTRIES[f"project {_kind}"] = functools.partial(of_projection, _kind)
for _layer in (
  attention.SoftmaxConfig(),
  attention.LinformerConfig(projected_length=K),
):
  for _module in (models.Encoder, models.TokenEncoder, models.MaskedLM):
    ENTRIES[f"{_module.__name__} {_layer.name}"] = functools.partial(
      of_model, _module, _layer
    )
ENTRIES |= {
  "layerwise": lambda: of_model(
    models.Encoder,
    attention.LinformerConfig(projected_length=K, sharing="layerwise"),
    query_block=4,
  ),
  "block": lambda: of_module(make_block("linear", "none", "pre"), X),
  "local window": of_local_window,
  "near rows": lambda: of_near,
  "slots beside them": lambda: of_slots,
  "xla": of_attention,
  "in blocks": functools.partial(of_attention, query_block=5),
  "flash": functools.partial(of_attention, implementation="flash"),
  "flash itself": lambda: functools.partial(
    flash.attend, ROWS, BY_HEAD, BY_HEAD
  ),
  "by head": lambda: functools.partial(ops.attend, ROWS, BY_HEAD, BY_HEAD),
}
REFUSED = {
  "float 0 and 1": (MASK.astype(np.float32), "dtype float32.*True at real"),
  "additive": (np.where(MASK, 0, -1e9), "dtype float64.*True at real"),
  "infinite": (np.where(MASK, 0, -np.inf).tolist(), "dtype float64"),
  "bfloat16": (jnp.where(MASK, 0, -1e9).astype(jnp.bfloat16), "dtype bfloat16"),
  "words": (MASK.astype(str), "dtype <U5"),
  "additive integers": (np.where(MASK, 0, -10_000), "holds -10000, not 0 or 1"),
  "on a device": (jnp.where(MASK, 0, -10_000), "holds -10000, not 0 or 1"),
  "token types": (2 * MASK, "holds 2, not 0 or 1"),
  "for scores": (MASK[:, None, None], r"\(4, 1, 1, 12\).*\(4, 12\)"),
  "one row": (MASK[0], r"\(12,\).*\(4, 12\)"),
  "one for all": (MASK[:1], r"\(1, 12\).*\(4, 12\)"),
  "pairs": (MASK[:, None] & MASK[..., None], r"\(4, 12, 12\).*\(4, 12\)"),
  "transposed": (MASK.T, r"\(12, 4\).*\(4, 12\)"),
  "ragged": ([[1, 1], [1]], "not an array"),
}


# How E is shared does not matter to a mask, and most kinds share their code for
# a memory and in a model; all of it is tried with the slow.
SLOW = {
  f"{kind} {sharing}"
  for kind, sharing in ALL_KINDS
  if sharing not in ("headwise", "")
} | {
  entry
  for entry in ENTRIES
  if entry.startswith(("of_", "Encoder", "TokenEncoder"))
  and not entry.endswith("linear")
}
QUICK = [
  pytest.param(entry, marks=pytest.mark.slow) if entry in SLOW else entry
  for entry in ENTRIES
]


@pytest.mark.parametrize("entry", QUICK)
def test_zeros_and_ones_are_false_and_true(entry):
  function = ENTRIES[entry]()
  want = function(MASK)
  for mask in (MASK.tolist(), jnp.asarray(MASK, jnp.uint8)):
    jax.tree.map(np.testing.assert_array_equal, function(mask), want)
  assert any(
    np.any(got != all_real)
    for got, all_real in zip(
      jax.tree.leaves(want), jax.tree.leaves(function(MASK | True)), strict=True
    )
  )


# Each is a program of its own, so some stand for all.
@pytest.mark.parametrize(
  "entry",
  ["linear headwise", "max_pool headwise", "convolution headwise", "softmax "]
  + ["layerwise", "flash", "local window"],
)
def test_the_same_in_a_program(entry):
  function = jax.jit(ENTRIES[entry]())
  want = function(MASK)
  for mask in (1 * MASK, np.asarray(MASK, np.int8)):
    jax.tree.map(np.testing.assert_array_equal, function(mask), want)


@pytest.mark.parametrize("entry", [*QUICK, "cudnn"])
def test_anything_else_is_refused(entry):
  cudnn = functools.partial(of_attention, "bfloat16", implementation="cudnn")
  function = ENTRIES.get(entry, cudnn)()
  for name, (mask, message) in REFUSED.items():
    with pytest.raises(ValueError, match=message):
      function(mask)
      pytest.fail(name)
  for mask in (MASK.astype(np.float32), MASK.T):
    with pytest.raises(ValueError, match="mask"):
      jax.eval_shape(function, mask)


def test_bool_costs_nothing():
  for mask in (MASK, jnp.asarray(MASK)):
    assert masks.check(mask, MASK.shape) is mask
  program = jax.make_jaxpr(lambda mask: masks.check(mask, MASK.shape))(MASK)
  assert not program.eqns


def test_values_that_are_not_known_yet():
  """One is real and all else is padding; lists of them are as arrays."""
  check = jax.jit(lambda mask: masks.check(mask, (1, 4)))
  want = [[False, True, False, False]]
  np.testing.assert_array_equal(check(np.array([[0, 1, 2, -1]])), want)
  np.testing.assert_array_equal(check([[0, 1, 2, -1]]), want)
  known = jax.jit(lambda: masks.check(jnp.array([[0, 2]]), (1, 2)))
  np.testing.assert_array_equal(known(), [[False, False]])


def test_values_closed_over_by_a_program_are_known():
  mask = jnp.array([[0, 2]])
  with pytest.raises(ValueError, match="holds 2"):
    jax.jit(lambda: masks.check(mask, (1, 2)))()

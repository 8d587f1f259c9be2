"""Devices sum gradients of bfloat16 products in float32 if a config says so."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import step
from linformer_jax.parallel import gradients, sharding
from linformer_jax.tools import aot
from tests import compiling, eight_devices, summed_gradients

pytestmark = pytest.mark.slow

FIELDS = {"model.dtype": "bfloat16", "model.num_layers": 1}
FLOAT32 = {"mesh.float32_gradients": True}
# Sizes of `tiny`: of a dense layer, of its bias, and of E.
KERNELS = {"32,64", "64", "8,32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  found = tmp_path_factory.mktemp("gradients")
  updates = {"default": FIELDS, "float32": FIELDS | FLOAT32}
  compiling.on_eight_devices("summed_gradients", found, json.dumps(updates))
  return found


def sums(text, dtype):
  """Shapes of a dtype that devices sum, in the text of a program."""
  reduced = r" = (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\("
  return {
    re.sub(r"^1,", "", sizes)  # an iteration of a loop over layers
    for shapes in re.findall(reduced, text)
    for sizes in re.findall(rf"\b{dtype}\[([\d,]*)\]", shapes)
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", summed_gradients.PRODUCTS)
def test_sums_are_those_of_float32(folder, name):
  found = np.load(folder / f"{name}.npz")
  paths = [at.removeprefix("alone ") for at in found if at.startswith("alone")]
  for path in paths:
    alone = found[f"alone {path}"]
    np.testing.assert_array_equal(alone, alone.astype(jnp.bfloat16))
    total = alone.sum(0)
    if total.any():  # not of parameters that are not used
      np.testing.assert_array_equal(found[f"float32 {path}"], total)
      assert (found[f"default {path}"] != total).any()


def test_an_update_sums_every_gradient_in_float32(folder):
  default = (folder / "default.txt").read_text()
  assert sums(default, "bf16") >= KERNELS and not sums(default, "f32") & KERNELS
  float32 = (folder / "float32.txt").read_text()
  assert sums(float32, "f32") >= KERNELS and not sums(float32, "bf16")


@pytest.mark.tpu
@pytest.mark.parametrize(
  "fields",
  [
    {"mesh.fsdp": 4},
    {
      "attention": "local+linformer",
      "attention.linformer.projection": "convolution",
    },
  ],
)
def test_a_tpu_sums_every_gradient_in_float32(fields):
  found = []
  for more in ({}, FLOAT32):
    fields = FIELDS | {"model.num_layers": 2} | fields | more
    config = eight_devices.make_config(fields)
    mesh = sharding.make_mesh(config.mesh, aot.devices("v5e:2x4"))
    steps = step.build_steps(config, mesh)
    lowered = steps.train.lower(steps.abstract_state, steps.abstract_batch)
    found.append(sums(lowered.compile().as_text(), "bf16"))
  assert len(found[0]) > 3 and not found[1]


def test_the_products_are_those_of_bfloat16_with_gradients_not_rounded():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

  def layer(x, kernel, bias):
    return gradients.add(gradients.einsum("bnm,mf->bnf", x, kernel), bias)

  x, kernel, bias, dy = draw(2, 3, 8), draw(8, 4), draw(4), draw(2, 3, 4)
  expected, pull = jax.vjp(layer, x, kernel, bias)
  float32 = kernel.astype(jnp.float32), bias.astype(jnp.float32)
  y, pull_float32 = jax.vjp(layer, x, *float32)
  np.testing.assert_array_equal(y, expected)
  dx, dkernel, dbias = pull_float32(dy)
  np.testing.assert_array_equal(dx, pull(dy)[0])
  x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
  for found, terms in (
    (dkernel, np.einsum("bnm,bnf->bnmf", x, dy)),
    (dbias, dy),
  ):
    bound = 6 * np.finfo(np.float32).eps * abs(terms).sum((0, 1)).max()
    np.testing.assert_allclose(found, terms.sum((0, 1)), rtol=0, atol=bound)

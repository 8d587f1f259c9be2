"""Blocks of rows on a mesh, and the rows of neighboring devices."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax.parallel import blocks, layout, sharding
from linformer_jax.tools import hlo
from tests import arrays, tiny

ROOT = pathlib.Path(__file__).parent.parent
PROGRAM = "from tests import test_blocks; test_blocks.on_eight_devices()"
B, N, M, WIDTH, BLOCK = 8, 32, 4, 3, 3


def rowwise(x, start, summary, variables, key):
  """Mixes what a block is given, so that each part shows."""
  del key
  halo, slots = summary
  near = halo.around(start, x.shape[1])
  rows = start + jnp.arange(x.shape[1])[:, None]
  sums = sum(near[:, i : i + x.shape[1]] for i in range(2 * WIDTH + 1))
  return x @ variables + sums * slots[:, None] + rows


def run(x, slots, variables, block):
  summary = blocks.with_halo(x, WIDTH), slots
  return blocks.in_blocks(rowwise, x, block, summary, variables)


def inputs():
  return arrays.draw(B, N, M), arrays.draw(B, M, seed=1), arrays.draw(M, M)


def by_definition(x, slots, variables):
  padded = np.pad(x, [(0, 0), (WIDTH, WIDTH), (0, 0)])
  sums = sum(padded[:, i : i + N] for i in range(2 * WIDTH + 1))
  return x @ variables + sums * slots[:, None] + np.arange(N)[:, None]


@pytest.mark.parametrize("block", [0, BLOCK, 5, N, 40])
def test_blocks_on_one_device(block):
  got = run(*inputs(), block)
  want = by_definition(*inputs())
  np.testing.assert_allclose(got, want, rtol=0, atol=64 * arrays.EPS * N)


def on_eight_devices():
  """What the test below runs in a process of its own; prints JSON."""
  sizes = tiny.get_config().mesh
  sizes.update(dict(data=2, sequence=4))
  mesh = sharding.make_mesh(sizes)
  x, slots, variables = inputs()
  toward = arrays.draw(B, N, M, seed=5)

  def loss(*args):
    with sharding.on_mesh(mesh):
      x = layout.constrain(args[0], "batch", "sequence")
      out = run(x, *args[1:], BLOCK)
    return jnp.sum(out * toward), out

  place = sharding.of_batch(("sequence",), mesh)
  x = jax.device_put(x, place)
  forward = jax.jit(lambda *args: loss(*args)[1]).lower(x, slots, variables)
  gradient = jax.jit(jax.grad(loss, (1, 2), has_aux=True))
  compiled = gradient.lower(x, slots, variables).compile()
  grads, out = compiled(x, slots, variables)
  print(
    json.dumps(
      {
        "out": np.asarray(out).tolist(),
        "gradients": [np.asarray(g).tolist() for g in grads],
        "forward": hlo.collectives(forward.compile().as_text()),
        "backward": hlo.collectives(compiled.as_text()),
      }
    )
  )


def test_blocks_on_eight_devices():
  """Gradients of what blocks share are summed once, not in every block."""
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
  )
  assert not done.returncode, done.stderr
  found = json.loads(done.stdout)
  x, slots, variables = inputs()
  bound = dict(rtol=0, atol=64 * arrays.EPS * N)
  np.testing.assert_allclose(
    found["out"], by_definition(x, slots, variables), **bound
  )
  toward = arrays.draw(B, N, M, seed=5)
  near = by_definition(x, np.ones_like(slots), 0 * variables)
  near -= np.arange(N)[:, None]
  wanted = (
    np.einsum("bnm,bnm->bm", near, toward),
    np.einsum("bnm,bnk->mk", x, toward),
  )
  for got, want in zip(found["gradients"], wanted, strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=B * N * 64 * arrays.EPS)
  # Of the rows, a device receives WIDTH from either neighbor and no more.
  rows = 4 * (B // 2) * WIDTH * M
  assert found["forward"]["collective-permute"] == 2 * rows
  # One sum over devices of the gradients of each: slots and variables.
  summed = 4 * (B // 2 * M + M * M)
  assert found["backward"]["all-reduce"] <= summed + 4 * B * M

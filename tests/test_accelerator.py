"""Every attention on a GPU or TPU, against the same on this host's CPU.

`./launch.sh test -m accelerator` on a machine that has one runs these alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention
from tests import arrays

pytestmark = pytest.mark.accelerator
B, N, M, H = 2, 300, 256, 4
SIZES = attention.Sizes(embed_dim=M, num_heads=H, max_length=N)
MASK = np.arange(N) < np.array([[N], [170]])


def choices():
  """Returns (name, config) of every attention with every implementation."""
  sums = [
    ("softmax", attention.SoftmaxConfig()),
    ("linformer", attention.LinformerConfig(projected_length=64)),
  ]
  for name, config in sums:
    for kernel in attention.ops.IMPLEMENTATIONS:
      if kernel != "cpu":
        yield (
          f"{name} {kernel}",
          dataclasses.replace(config, implementation=kernel),
        )
  near = attention.LinformerConfig(projected_length=64, local_window=5)
  pooled = attention.LinformerConfig(
    projected_length=60, projection="mean_pool"
  )
  yield "near", near
  yield "pooled", pooled
  yield "local", attention.LocalConfig(window=9)
  yield "linear", attention.LinearConfig()
  yield (
    "transformer_ls",
    attention.TransformerLSConfig(projected_length=64, window=9),
  )
  yield "luna", attention.LunaConfig(projected_length=64)
  yield "fnet", attention.FNetConfig()


CHOICES = dict(choices())


def values(config, dtype, block, x, on):
  """Returns output and gradients on one device, in float32."""
  sizes = dataclasses.replace(SIZES, dtype=dtype, query_block=block)
  module = config.module(sizes)

  def run(variables, x):
    def loss(variables, x):
      out = module.apply(variables, x, None, MASK)
      out = jnp.where(MASK[..., None], out.astype(jnp.float32), 0)
      return jnp.sum(jnp.sin(out)), out

    grads, out = jax.grad(loss, (0, 1), has_aux=True)(variables, x)
    return out, grads

  variables = arrays.filled(module, x)
  with jax.default_device(on), jax.default_matmul_precision("highest"):
    return jax.device_get(jax.jit(run)(variables, x))


def distance(got, want) -> float:
  """Returns |got - want| / |want| over all arrays."""
  got, want = (
    np.concatenate([np.ravel(x).astype(float) for x in jax.tree.leaves(tree)])
    for tree in (got, want)
  )
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("block", [0, 128])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHOICES)
def test_value_and_gradients_are_those_of_the_cpu(name, dtype, block):
  config = CHOICES[name]
  if getattr(config, "implementation", "") == "cudnn":
    if dtype == "float32" or jax.default_backend() != "gpu":
      pytest.skip("cuDNN's kernel is for bfloat16 on GPUs")
  x = arrays.draw(B, N, M)
  plain = config
  if hasattr(config, "implementation"):
    plain = dataclasses.replace(config, implementation="xla")
  want = values(plain, "float32", 0, x, jax.devices("cpu")[0])
  got = values(config, dtype, block, x, jax.devices()[0])
  limit = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
  assert distance(got[0], want[0]) < limit
  whole = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(want[1])))
  for mine, theirs in zip(
    *map(jax.tree.leaves, (got[1], want[1])), strict=True
  ):
    # The keys' bias has no gradient but rounding.
    scale = np.linalg.norm(theirs) + 1e-2 * whole
    assert np.linalg.norm(mine - theirs) < 2 * limit * scale

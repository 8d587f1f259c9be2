"""What test_gradients.py runs in a process of its own, on eight CPU devices.

  python -m tests.summed_gradients FOLDER UPDATES

UPDATES is JSON, {name: fields of the config}. Leaves PRODUCT.npz in the folder
for each product of `PRODUCTS` and NAME.txt for each update: what devices sum.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from linformer_jax import attention, models, step
from linformer_jax.attention import heads, projection
from linformer_jax.models import encoder
from linformer_jax.models.inputs import tokens
from linformer_jax.parallel import sharding
from tests import eight_devices, tiny

N, K, M, H, V = 8, 4, 16, 2, 24
D, LARGE = M // H, 256
BFLOAT16 = {"dtype": "bfloat16"}
MODEL = models.ModelConfig(
  V, N, 1, M, H, M, attention=attention.SoftmaxConfig(), **BFLOAT16
)


def module(made, *more, method=None):
  """A product as a function of parameters and x, and shapes of parameters."""

  def product(params, x):
    return made.apply({"params": params}, x, *more, method=method)

  def shapes(x):
    def init(x):
      return made.init(jax.random.key(0), x, *more, method=method)["params"]

    return jax.eval_shape(init, x)

  return product, shapes


def project(kind, *shape):
  """Likewise a projection with weights of a shape."""

  def product(weights, x):
    by = projection.Projection(kind, N, K, weights)
    return projection.project_sequence(x, by)[0]

  return product, lambda x: jax.ShapeDtypeStruct(shape, jnp.float32)


# By name: the product, and the shape of x without its first axis.
PRODUCTS = {
  "dense": (module(encoder.Dense(V, **BFLOAT16)), (N, M)),
  "dense of one row": (module(encoder.Dense(V, **BFLOAT16)), (M,)),
  "heads": (module(heads.HeadDense(H, **BFLOAT16), D), (N, M)),
  "rows of heads": (module(heads.HeadDense(H, **BFLOAT16), D), (K, H, M)),
  "out": (module(heads.OutDense(**BFLOAT16)), (N, H, D)),
  "embeddings": (module(tokens.Tokens(MODEL), method="attend"), (N, M)),
  "E": (project("linear", K, N), (N, M)),
  "E of heads": (project("linear", K, N), (N, H, D)),
  "E of each head": (project("linear", H, K, N), (N, M)),
  "E of each of the heads": (project("linear", H, K, N), (N, H, D)),
  "convolution": (project("convolution", N // K, D, D), (N, H, D)),
}


def gradients(mesh, product, shapes, sizes):
  """Gradients of parameters, by how devices sum them.

  One row of x lies on each device. All numbers are integers, and the first
  device has larger ones: gradients of a device are exact in bfloat16, and their
  sum is in float32 only.
  """
  rng = np.random.default_rng(0)
  x = rng.integers(-1, 2, (mesh.size, *sizes)).astype(jnp.bfloat16)
  params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes(x[:1]))
  shape = jax.eval_shape(product, params, x).shape
  dy = rng.integers(-1, 2, shape).astype(np.float32)
  dy[0] *= LARGE

  def gradient(params, x, dy):
    def loss(params):
      return jnp.sum(product(params, x).astype(jnp.float32) * dy)

    return jax.grad(loss)(params)

  def summed(float32):
    def on_mesh(*arguments):
      with sharding.on_mesh(mesh, float32_gradients=float32):
        return gradient(*arguments)

    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    places = (whole, rows, rows)
    jitted = jax.jit(on_mesh, in_shardings=places, out_shardings=whole)
    # CPU devices sum in float32, and may cast to bfloat16 and back after that.
    return jitted.lower(params, x, dy).compile(
      {"xla_allow_excess_precision": False}
    )(params, *map(lambda a: jax.device_put(a, rows), (x, dy)))

  alone = [
    jax.tree.map(np.asarray, gradient(params, x[i : i + 1], dy[i : i + 1]))
    for i in range(mesh.size)
  ]
  found = {"float32": summed(True), "default": summed(False)}
  found["alone"] = jax.tree.map(lambda *parts: np.stack(parts), *alone)
  return found


def sums(config, mesh, folder):
  """What devices sum in an update, before the compiler knows the hardware."""
  steps = step.build_steps(config, mesh)
  lowered = steps.train.lower(steps.abstract_state, steps.abstract_batch)
  options = {
    "xla_dump_to": str(folder),
    "xla_dump_hlo_pass_re": "spmd-partitioning",
  }
  lowered.compile(options)
  (path,) = folder.glob("*after_spmd-partitioning*")
  return path.read_text()


def main():
  folder, updates = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
  jax.config.update("jax_enable_compilation_cache", False)
  mesh = sharding.make_mesh(tiny.get_config().mesh)
  for name, ((product, shapes), sizes) in PRODUCTS.items():
    found = {}
    for how, tree in gradients(mesh, product, shapes, sizes).items():
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found[f"{how} {jax.tree_util.keystr(path)}"] = leaf
    np.savez(folder / f"{name}.npz", **found)
  for name, fields in updates.items():
    text = sums(eight_devices.make_config(fields), mesh, folder / name)
    (folder / f"{name}.txt").write_text(text)


if __name__ == "__main__":
  main()

"""What test_sequence_axis.py runs in a process of its own, on eight devices.

  python -m tests.collective_bytes CASES

CASES is JSON, {name: [attention, its fields, fields of ModelConfig]}. Prints
JSON, by name and by 'forward' or 'backward' the bytes of each kind of
collective in one encoder layer whose sequence lies on eight devices, at each of
`LENGTHS`.
"""

import json
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from linformer_jax import attention, models
from linformer_jax.attention import projection
from linformer_jax.models import config as model_config
from linformer_jax.parallel import sharding
from linformer_jax.tools import hlo
from tests import tiny

LENGTHS = (64, 1024)
BATCH, WIDTH, MLP, HEADS, K = 2, 32, 64, 2, 8


def compile_layer(mesh, kind, fields, length):
  """(forward, backward) of one layer, compiled for the mesh."""
  sizes = dict(
    vocab_size=8,
    max_length=length,
    num_layers=1,
    embed_dim=WIDTH,
    num_heads=HEADS,
    mlp_dim=MLP,
    attention=kind,
  )
  config = model_config.ModelConfig(**sizes, **fields)
  sharding.check_model(config, length, mesh)
  block = models.Block(config, kind, kind.one_way)

  def on_rows(*shape, dtype=jnp.float32, axes=(None, "sequence")):
    at = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=at)

  x, shared = on_rows(BATCH, length, WIDTH), None
  mask = on_rows(BATCH, length, dtype=bool)
  if kind.shares and not kind.carries:
    by = kind.projection
    shape = projection.weights_shape(by, length, K, WIDTH // HEADS)
    weights = None
    if shape:
      axes = (None, "sequence") if len(shape) == 2 else ()
      weights = on_rows(*shape, axes=axes)
    shared = projection.Projection(by, length, K, weights)
  shapes = jax.eval_shape(
    lambda x, by: block.init(jax.random.key(0), x, shared=by), x, shared
  )
  variables = jax.tree.map(
    lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
    shapes,
    sharding.of_state(shapes, mesh),
  )

  def forward(variables, x, shared, mask):
    with sharding.on_mesh(mesh):
      return block.apply(variables, x, mask, shared)

  def backward(variables, x, shared, mask, toward):
    _, pull = jax.vjp(lambda *of: forward(*of, mask), variables, x, shared)
    return pull(toward)

  arguments = (variables, x, shared)
  places = jax.tree.map(lambda s: s.sharding, arguments)
  return {
    "forward": jax.jit(forward, out_shardings=x.sharding)
    .lower(*arguments, mask)
    .compile(),
    "backward": jax.jit(backward, out_shardings=places)
    .lower(*arguments, mask, x)
    .compile(),
  }


def main():
  mesh_sizes = tiny.get_config().mesh
  mesh_sizes.update(dict(data=1, sequence=8))
  mesh = sharding.make_mesh(mesh_sizes)
  found = {}
  for name, (kind, its, fields) in json.loads(sys.argv[1]).items():
    kind = attention.ATTENTIONS[kind](**its)
    found[name] = {"forward": [], "backward": []}
    for length in LENGTHS:
      for what, compiled in compile_layer(mesh, kind, fields, length).items():
        found[name][what].append(hlo.collectives(compiled.as_text()))
  print(json.dumps(found))


if __name__ == "__main__":
  main()

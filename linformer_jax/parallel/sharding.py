"""The device mesh, and how state and batches are sharded over it.

data      sequences of a batch; parameters are replicated
fsdp      sequences too, and the width of parameters and optimizer state
sequence  positions of a sequence, and the matching columns of E and F
tensor    heads, MLP and vocabulary
"""

import contextlib
import functools
import itertools
import math
import re

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from linformer_jax import attention
from linformer_jax.models import config as model_config
from linformer_jax.parallel import layout

AXES = ("data", "fsdp", "sequence", "tensor")

# Mesh axes by logical axis.
RULES = {
  "batch": ("data", "fsdp"),
  "sequence": "sequence",
  "heads": "tensor",
  "mlp": "tensor",
  "vocab": "tensor",
  "embed": "fsdp",  # width of parameters; that of activations is not sharded
  "table": ("fsdp", "sequence"),  # width of the position table
  "columns": "sequence",  # width of the same while resharding to 'sequence'
}

# Suffix of a parameter's path and its logical axes, besides those of
# `AttentionConfig.parameters`; scanned layers have one more leading axis. The
# rest are small and replicated.
PARAMETERS = (
  ("tokens/embedding", ("vocab", "embed")),
  ("positions", (None, "table")),
  ("mlp_in/kernel", ("embed", "mlp")),
  ("mlp_in/bias", ("mlp",)),
  ("mlp_out/kernel", ("mlp", "embed")),
  ("head_dense/kernel", ("embed", None)),
  ("head_bias", ("vocab",)),
)


def make_mesh(config, devices=None) -> Mesh:
  """Returns a mesh of all devices over the four axes.

  Args:
    config: the `mesh` group of a config: devices per axis, -1 for the rest.
    devices: None for all JAX devices.

  Raises:
    ValueError: if the axis sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [config[axis] for axis in AXES]
  if any(size < 1 and size != -1 for size in sizes):
    raise ValueError(f"mesh sizes {sizes} must be positive, or -1 for the rest")
  if sizes.count(-1) > 1:
    raise ValueError(f"mesh sizes {sizes}: only one axis may be -1")
  known = math.prod(size for size in sizes if size != -1)
  left = max(1, len(devices) // known)
  sizes = [left if size == -1 else size for size in sizes]
  if math.prod(sizes) != len(devices):
    raise ValueError(
      f"mesh {dict(zip(AXES, sizes, strict=True))} needs {math.prod(sizes)} "
      f"devices, but there are {len(devices)}"
    )
  # On a TPU, neighbors along a mesh axis are neighbors on the interconnect.
  placed = mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )
  return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 4)


def on_mesh(
  mesh: Mesh, float32_gradients: bool = False
) -> contextlib.AbstractContextManager:
  """Shards the activations of models traced in this context over the mesh.

  Args:
    mesh: the devices.
    float32_gradients: sum gradients over devices in float32 even if matrix
      products are bfloat16; by default in the dtype of the products.
  """
  return layout.on_mesh(mesh, RULES, float32_gradients)


def _axes(path, rank):
  """Returns the mesh axes of a leaf of the state from its path and rank."""
  kinds = attention.ATTENTIONS.values()
  known = itertools.chain(PARAMETERS, *(kind.parameters for kind in kinds))
  scanned = bool(re.search(r"(^|/)layers_\d+/", path))
  for end, axes in known:
    if rank == len(axes) + scanned and re.search(rf"(^|/){end}$", path):
      return layout.spec(RULES, *(None,) * scanned, *axes)
  return PartitionSpec()


def of_state(state, mesh: Mesh):
  """Returns the shardings of a tree whose paths end like parameter paths."""

  def of_leaf(path, leaf):
    names = [str(getattr(key, "key", "")) for key in path]
    return NamedSharding(mesh, _axes("/".join(names), leaf.ndim))

  return jax.tree_util.tree_map_with_path(of_leaf, state)


def of_batch(axes: tuple[str | None, ...], mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array [B, ...] of a batch.

  Args:
    axes: logical axes of a row, as in `tasks.Field`.
    mesh: the devices.
  """
  return NamedSharding(mesh, layout.spec(RULES, "batch", *axes))


def _check(name, size, mesh, *axes, parts=1):
  ways = math.prod(mesh.shape[axis] for axis in axes) * parts
  if size % ways:
    product = " * ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in axes)
    if parts > 1:
      product += f" * train.accumulation_steps={parts}"
    raise ValueError(f"{name} {size} is not divisible by {product}")


def check_model(
  model: model_config.ModelConfig, sequence_length: int, mesh: Mesh
):
  """Raises a ValueError unless the mesh divides the model's sizes."""
  _check("data.sequence_length", sequence_length, mesh, "sequence")
  _check("model.num_heads", model.num_heads, mesh, "tensor")
  _check("model.mlp_dim", model.mlp_dim, mesh, "tensor")
  _check("model.vocab_size", model.vocab_size, mesh, "tensor")
  _check("model.embed_dim", model.embed_dim, mesh, "fsdp", "sequence")
  model.check_attention(sequence_length, mesh.shape["sequence"])


def check_batch(name: str, size: int, mesh: Mesh, parts: int = 1):
  """Raises a ValueError unless devices and parts divide `size` sequences.

  Args:
    name: the config field, for the message.
    size: sequences.
    mesh: its data and fsdp axes shard the sequences.
    parts: accumulation steps, each sharded over the devices.
  """
  if size < 1 or parts < 1:
    raise ValueError(f"{name} {size} in {parts} parts: both must be positive")
  _check(name, size, mesh, *RULES["batch"], parts=parts)


def batch_ways(mesh: Mesh) -> int:
  """Returns the number of shards of a batch."""
  return layout.ways(mesh, RULES["batch"])


@functools.cache  # called for every batch
def _shares(mesh):
  """Returns, by process, the batch shards that its devices hold."""
  ways = batch_ways(mesh)
  by_part = mesh.devices.reshape(ways, -1)  # data and fsdp are the first axes
  found = {}
  for part, devices in enumerate(by_part):
    for device in devices:
      found.setdefault(device.process_index, set()).add(part)
  return {process: tuple(sorted(found[process])) for process in found}


def share(mesh: Mesh) -> tuple[int, int]:
  """Returns (i, c): this process reads the i-th of c equal shares of a batch.

  Processes that shard the same sequences read the same share.

  Raises:
    ValueError: if the mesh gives processes partially overlapping shares.
  """
  shares = _shares(mesh)
  different = sorted(set(shares.values()))
  if len(set(map(len, different))) > 1 or len(set(sum(different, ()))) != sum(
    map(len, different)
  ):
    raise ValueError(
      f"mesh {dict(mesh.shape)}: the devices of {len(shares)} processes share "
      "parts of a batch unevenly; let mesh.sequence * mesh.tensor divide the "
      "devices of a process, or be a multiple of them"
    )
  return different.index(shares[jax.process_index()]), len(different)


def to_global(batch, axes, mesh: Mesh):
  """Assembles global arrays from the rows of each process.

  Args:
    batch: arrays [rows of this share, ...] by name.
    axes: logical axes of a row of each array, by name.
    mesh: the devices.
  """
  parts = _shares(mesh)[jax.process_index()]

  def assemble(name, rows):
    size = len(rows) // len(parts)

    def part(at):
      first = parts.index((at[0].start or 0) // size) * size
      return rows[(slice(first, first + size), *at[1:])]

    shape = (size * batch_ways(mesh), *rows.shape[1:])
    return jax.make_array_from_callback(shape, of_batch(axes[name], mesh), part)

  return {name: assemble(name, rows) for name, rows in batch.items()}

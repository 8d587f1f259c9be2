"""The device mesh, and how state and batches lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "sequence", "tensor")


def make_mesh(config, devices=None) -> Mesh:
  """A mesh of all devices over the four axes.

  Args:
    config: the `mesh` group of a config: devices an axis, -1 for what is left.
    devices: default all of JAX's.

  Raises:
    ValueError: when the axes do not multiply to the number of devices, or an
      axis that is not supported yet is above 1.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [config[axis] for axis in AXES]
  if any(size < 1 and size != -1 for size in sizes):
    raise ValueError(f"mesh sizes {sizes} must be positive, or -1 for the rest")
  if sizes.count(-1) > 1:
    raise ValueError(f"mesh sizes {sizes}: only one axis may be -1")
  known = int(np.prod([size for size in sizes if size != -1]))
  sizes = [len(devices) // known if size == -1 else size for size in sizes]
  for axis, size in zip(AXES[1:], sizes[1:], strict=True):
    if size > 1:
      raise ValueError(
        f"mesh.{axis}={size}: only the data axis may be above 1 so far"
      )
  if int(np.prod(sizes)) != len(devices):
    raise ValueError(
      f"mesh {dict(zip(AXES, sizes, strict=True))} needs {np.prod(sizes)} "
      f"devices, but there are {len(devices)}"
    )
  return Mesh(
    np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 4
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device: parameters, optimiser, scalars."""
  return NamedSharding(mesh, PartitionSpec())


def by_sequence(mesh: Mesh) -> NamedSharding:
  """Batches [B, ...], their sequences spread over the data axis."""
  return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(name: str, size: int, mesh: Mesh, parts: int = 1):
  """Raises a ValueError unless `size` sequences divide over devices and parts.

  Args:
    name: the config field, for the message.
    size: sequences.
    mesh: whose data axis takes them.
    parts: accumulation steps, each of which is spread over the devices.
  """
  if size < 1 or parts < 1:
    raise ValueError(f"{name} {size} in {parts} parts: both must be positive")
  if size % (mesh.shape["data"] * parts):
    raise ValueError(
      f"{name} {size} is not divisible by {mesh.shape['data']} devices on the "
      f"data axis times {parts} accumulation steps"
    )
  if size % jax.process_count():
    raise ValueError(
      f"{name} {size} is not divisible by {jax.process_count()} processes"
    )


def to_global(batch, sharding: NamedSharding):
  """This process's rows as part of arrays that all processes share."""
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
  )

"""Checks that a run can fit in memory, before anything is written."""

import math
import os
import pathlib

import jax

_CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")
ADVICE = (
  "lower train.batch_size or raise train.accumulation_steps, set model.remat, "
  "or lower sizes of the model; ./launch.sh plan shows what a config needs"
)


def sizes(config) -> str:
  """Returns the config fields that determine memory, with their values."""
  model = {
    f"model.{name}": config.model[name]
    for name in ("vocab_size", "max_length", "num_layers", "embed_dim")
  }
  fields = {"train.batch_size": config.train.batch_size} | model
  fields["model.mlp_dim"] = config.model.mlp_dim
  return ", ".join(f"{name} {value}" for name, value in fields.items())


def exhausted(error: Exception) -> bool:
  """Whether an exception means out of memory."""
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def bytes_per_device(tree) -> int:
  """Returns bytes per device of a tree of sharded jax.ShapeDtypeStruct."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def available() -> int:
  """Returns the memory of one device in bytes; CPU devices share the host's."""
  device = jax.local_devices()[0]
  stats = device.memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if _CGROUP.exists() and (limit := _CGROUP.read_text().strip()).isdigit():
    total = min(total, int(limit))
  return total // jax.local_device_count()


def least(steps, config) -> int:
  """Returns a lower bound on the bytes an update takes on a device.

  Counts the state, gradients, a batch, the layer inputs saved for the backward
  pass, and the outputs of the head. XLA takes more.
  """
  state, model = steps.abstract_state, steps.model
  shape = steps.mesh.shape
  ways = shape["data"] * shape["fsdp"] * config.train.accumulation_steps
  sequences = config.train.batch_size // ways
  length = steps.task.length
  width = {"float32": 4, "bfloat16": 2}[model.dtype]
  inputs = model.num_layers * (length // shape["sequence"]) * model.embed_dim
  outputs = 2 * steps.task.outputs // shape["tensor"]  # with their gradient
  return (
    bytes_per_device((state, state.params, steps.abstract_batch))
    + sequences * inputs * width
    + sequences * outputs * 4
  )


def check(steps, config):
  """Raises a ValueError if an update cannot fit in a device's memory.

  Otherwise, on a CPU, the operating system would kill the process.
  """
  needed, there = least(steps, config), available()
  if needed <= there:
    return
  raise ValueError(
    f"an update needs at least {needed / 2**30:,.1f} GiB of memory on a device,"
    f" and there is {there / 2**30:,.1f} GiB, for {sizes(config)}: " + ADVICE
  )

"""Compiles for absent hardware, and reads the compiler's estimates.

The compilers of libtpu and JAX's CUDA plugin run on a CPU host. Nothing is
executed, so their figures are estimates.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping

import jax
from jax.experimental import topologies

from linformer_jax.tools import hlo

# GiB per device available to a program, by `jax.Device.device_kind`. For TPUs,
# what libtpu 0.0.52 reports as available when it runs out; chips have 32, 16,
# 95 and 32 GiB, of which the runtime reserves some. For an H100, all of its
# memory, of which CUDA takes a little.
MEMORY_GIB = {
  "TPU v4": 30.75,
  "TPU v5 lite": 15.75,
  "TPU v5": 95.73,
  "TPU v6 lite": 31.24,
  "NVIDIA H100 80GB HBM3": 84_929_347_584 / 2**30,
}

# By TPU generation: slice dimensions, most chips in a slice, example.
_SLICES = {
  "v4": (3, 4096, "v4:2x2x1"),
  "v5e": (2, 256, "v5e:4x4"),
  "v5p": (3, 6144, "v5p:2x2x1"),
  "v6e": (2, 256, "v6e:4x4"),
}

# An H100 SXM as a target config of XLA's GPU compiler.
_H100 = """gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 20 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def devices(topology: str) -> list[jax.Device]:
  """Returns devices to compile for, which cannot execute.

  JAX itself stays on the CPU; JAX_PLATFORMS=cpu works too.

  Args:
    topology: a TPU slice such as 'v5e:4x4', one chip 'v5e:1', or 'h100'.

  Raises:
    ValueError: for a topology that does not exist, or a compiler that is not
      installed.
  """
  if topology == "h100":
    return _h100()
  form = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
  generation, sizes = form.groups() if form else ("", "")
  if generation not in _SLICES:
    raise ValueError(
      f"topology {topology!r} is neither h100 nor GENERATION:SHAPE, such as "
      + ", ".join(example for *_, example in _SLICES.values())
    )
  dimensions, most, example = _SLICES[generation]
  if sizes == "1":
    sizes = "x".join("1" * dimensions)
  shape = [int(size) for size in sizes.split("x")]
  if len(shape) != dimensions or not 0 < math.prod(shape) <= most:
    raise ValueError(
      f"topology {topology!r} does not exist: a {generation} slice has "
      f"{dimensions} dimensions and at most {most} chips, such as {example}"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f"topology {topology!r} needs the TPU compiler: ./launch.sh plan "
      "installs it, or pip install libtpu"
    )
  # Without these, libtpu queries a metadata server and logs errors.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  # No chip is used, so other processes may load libtpu too.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  # A v4 chip is one device of two cores, as on a TPU VM.
  options = {"chip_config_name": "megacore"} if generation == "v4" else {}
  if math.prod(shape) == 1:  # the default is four chips per host
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    return topologies.get_topology_desc(
      f"{generation}:{sizes}", "tpu", **options
    ).devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f"topology {topology!r} does not exist, try {example}: {error}"
    ) from error


def _h100():
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  try:
    return topologies.get_topology_desc(
      platform="cuda", topology="1x1x1", target_config=_H100
    ).devices
  except NotImplementedError:
    raise ValueError(
      "topology 'h100' needs the CUDA compiler: pip install 'jax[cuda13]', in "
      "an environment of its own"
    ) from None


def capacity(device: jax.Device) -> int:
  """Returns the bytes of a device that a program may use."""
  return int(MEMORY_GIB[device.device_kind] * 2**30)


@dataclasses.dataclass(frozen=True)
class Report:
  """A compiler's estimates for a program, in bytes per device.

  Attributes:
    peak: arguments + outputs - aliased + temporaries. If compilation ran out of
      memory, the bytes the compiler says are needed, or infinity.
    exhausted: whether compilation ran out of memory; the fields below are then
      empty.
    arguments, outputs, aliased, temporaries: bytes of buffers; aliased buffers
      are both arguments and outputs.
    flops: floating point operations, or None if the compiler does not count
      them. A loop body counts once.
    traffic: bytes that instructions read and write, counted likewise.
    collectives: output bytes of collectives by kind, where a loop body counts
      as often as it runs; None if the compiler does not print the program.
  """

  peak: float
  exhausted: bool = False
  arguments: int = 0
  outputs: int = 0
  aliased: int = 0
  temporaries: int = 0
  flops: float | None = None
  traffic: float | None = None
  collectives: Mapping[str, int] | None = None


def compile_report(jitted, *arguments) -> Report:
  """Compiles a jitted function for the devices of its arguments.

  Args:
    jitted: as returned by jax.jit.
    *arguments: trees of jax.ShapeDtypeStruct with shardings over `devices`.
  """
  try:
    compiled = jitted.lower(*arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    if not str(error).startswith("RESOURCE_EXHAUSTED"):
      raise
    return Report(_needed(str(error)), exhausted=True)
  memory = compiled.memory_analysis()
  sizes = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes,
    "aliased": memory.alias_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
  }
  costs = compiled.cost_analysis() or {}
  return Report(
    peak=sum(sizes.values()) - 2 * sizes["aliased"],
    flops=costs.get("flops"),
    traffic=costs.get("bytes accessed"),
    collectives=_collectives(compiled),
    **sizes,
  )


def _collectives(compiled):
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    # libtpu 0.0.52 cannot print some v5p programs: they fail its own check.
    if "async-update instruction" not in str(error):
      raise
    return None
  return hlo.collectives(text)


def _needed(message):
  """Parses the bytes needed from a TPU compiler's message, or infinity."""
  found = re.search(
    r"\(([\d.]+)([KMGT])\) exceeds available|Used ([\d.]+)([KMGT]) of", message
  )
  if not found:
    return math.inf
  number, unit = filter(None, found.groups())
  return float(number) * 2 ** (10 * (1 + "KMGT".index(unit)))


def largest(
  bytes_of: Callable[[int], float],
  limit: float,
  cap: int,
  known: Mapping[int, float] | None = None,
  step: int = 1,
) -> int:
  """Returns the largest size that fits, having tried it and one step more.

  Memory is nearly affine in the size, so two sizes predict where to look. Every
  third try bisects, since compilers pack more tightly near the limit. If memory
  is not monotonic in the size, the result is one of several such sizes.

  Args:
    bytes_of: returns bytes at a size; called as rarely as possible.
    limit: bytes available.
    cap: the largest size to try.
    known: bytes of sizes measured before; size 0 stands for the fixed cost.
    step: sizes are multiples of it.

  Returns:
    The size; 0 if not even one step fits.
  """
  bytes_at = dict(known or {})
  low = max((size for size in bytes_at if bytes_at[size] <= limit), default=0)
  high = min((size for size in bytes_at if size > low), default=cap + 1)
  high = -(-high // step)  # both in steps from here on
  low //= step
  tries = 0
  while high - low > 1:
    tries += 1
    guess = (low + high) // 2
    nearest = sorted(bytes_at, key=lambda size: abs(bytes_at[size] - limit))[:2]
    if tries % 3 and len(nearest) == 2:
      first, second = nearest
      slope = (bytes_at[second] - bytes_at[first]) / (second - first)
      if 0 < slope < math.inf:
        guess = int((first + (limit - bytes_at[first]) / slope) // step)
    elif len(bytes_at) < 2:
      guess = 2 * low or 1
    guess = min(max(guess, low + 1), high - 1)
    bytes_at[guess * step] = bytes_of(guess * step)
    if bytes_at[guess * step] <= limit:
      low = guess
    else:
      high = guess
  return low * step

"""Compiles for hardware that is not there, and reads what it would take.

The compilers are the real ones, of libtpu and of JAX's CUDA plugin, on a CPU
host. Their figures are estimates: nothing is run.
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

# GiB of one device that a program may fill, by `jax.Device.device_kind`. Of
# TPUs what libtpu 0.0.52 calls available when a program needs more; a chip has
# 32, 16, 95 and 32 GiB and the runtime keeps some. Of an H100 all that it has;
# CUDA itself needs a little of that too.
MEMORY_GIB = {
  "TPU v4": 30.75,
  "TPU v5 lite": 15.75,
  "TPU v5": 95.73,
  "TPU v6 lite": 31.24,
  "NVIDIA H100 80GB HBM3": 84_929_347_584 / 2**30,
}

# Of a TPU generation: dimensions of its slices, most chips in one, example.
_SLICES = {
  "v4": (3, 4096, "v4:2x2x1"),
  "v5e": (2, 256, "v5e:4x4"),
  "v5p": (3, 6144, "v5p:2x2x1"),
  "v6e": (2, 256, "v6e:4x4"),
}

# An H100 SXM as the CUDA compiler describes one to itself.
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
  """Devices to compile for; they cannot run anything.

  JAX itself stays on the CPU, with JAX_PLATFORMS=cpu too.

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
  # Without these libtpu asks a metadata server who it is, and complains.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  # No chip is taken, so another process may use the library meanwhile.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  # A v4 chip is one device of two cores, as on a TPU VM.
  options = {"chip_config_name": "megacore"} if generation == "v4" else {}
  if math.prod(shape) == 1:  # of a host's chips, which are four else
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
  """Bytes of a device that a program may fill."""
  return int(MEMORY_GIB[device.device_kind] * 2**30)


@dataclasses.dataclass(frozen=True)
class Report:
  """What a compiler says of a program, on each device. Bytes.

  Attributes:
    peak: arguments + outputs - aliased + temporaries. Where the compiler ran
      out of memory, what it says would be needed, or infinity.
    exhausted: whether it ran out; all that follows is then empty.
    arguments, outputs, aliased, temporaries: of the buffers; aliased ones are
      arguments and outputs in one.
    flops: floating point operations, None where the compiler does not count.
      It counts the body of a loop once, however often it runs.
    traffic: bytes that its instructions read and write, likewise.
    collectives: bytes that collective operations give out, by their kind, loop
      bodies as often as they run; None where the compiler does not print the
      program.
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
  """Compiles a jitted function for the devices its arguments lie on.

  Args:
    jitted: of jax.jit.
    *arguments: trees of jax.ShapeDtypeStruct, with shardings over `devices`.
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
    # libtpu 0.0.52 on v5p: its own program fails a check on the way out.
    if "async-update instruction" not in str(error):
      raise
    return None
  return hlo.collectives(text)


def _needed(message):
  """Bytes that a message of the TPU compiler says were needed, or infinity."""
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
  """The largest size that fits, tried, and tried that one step more does not.

  Memory is nearly affine in the size, so that two sizes tell where to look. A
  compiler that packs more tightly the fuller it gets is met by bisection. Where
  memory does not grow with the size, one of several such sizes is found.

  Args:
    bytes_of: bytes at a size; called as rarely as possible.
    limit: bytes that there are.
    cap: the largest size to try.
    known: bytes by size, measured before; size 0 may stand for what is fixed.
    step: sizes are multiples of it.

  Returns:
    The size; 0 when not even one step fits.
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

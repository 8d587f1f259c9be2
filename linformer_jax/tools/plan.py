"""Plans a training run: compiles its update for absent hardware.

The report marks each number as exact, analytic or a compiler's estimate.
Nothing is executed, read or written.
"""

import dataclasses
import math
import time

import jax
from ml_collections import config_dict

from linformer_jax import flops, memory
from linformer_jax import step as step_lib
from linformer_jax.parallel import sharding
from linformer_jax.run import report
from linformer_jax.tools import aot

bytes_per_device = memory.bytes_per_device
_LARGEST = 4096  # most sequences per batch shard to try


def bytes_kept(steps: step_lib.Steps) -> int:
  """Returns the bytes of residuals that jax.vjp saves per sequence.

  This is before fusion or recomputation by the compiler, which saves less.
  """
  state = steps.abstract_state

  def kept(sequences):
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((sequences, *x.shape[1:]), x.dtype),
      steps.abstract_batch,
    )

    def backward(params, batch, key):
      def loss(params):
        variables = {"params": params, "constants": state.constants}
        return steps.task.sums(variables, batch, key)["loss"]

      return jax.vjp(loss, params)[1]

    key = (
      jax.eval_shape(lambda: jax.random.key(0))
      if steps.model.has_dropout
      else None
    )
    shapes = jax.eval_shape(backward, state.params, batch, key)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

  # The difference cancels weights, which are saved once for all sequences.
  return kept(2) - kept(1)


def _changed(config, **groups):
  """Returns a copy of a config with some fields changed."""
  copy = config_dict.ConfigDict(config.to_dict())
  for group, fields in groups.items():
    copy[group].update(fields)
  return copy


def compile_update(config, devices, model=None) -> aot.Report:
  """Compiles the training update, of another model if one is given.

  Raises:
    ValueError: if config values are inconsistent or do not fit the devices.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  steps = step_lib.build_steps(config, mesh, model)
  return aot.compile_report(
    steps.train, steps.abstract_state, steps.abstract_batch
  )


def _compile_and_print(name, config, devices, model=None):
  """Calls `compile_update` and prints its peak memory and compile time."""
  start = time.perf_counter()
  result = compile_update(config, devices, model)
  took = report.clock(time.perf_counter() - start)
  report.say(f"  {name}: {_gib(result.peak)}, compiled in {took}")
  return result


def counts(config, devices) -> tuple[float, float] | None:
  """Returns the compiler's count of FLOPs and bytes of an update on a device.

  A compiler counts a loop body once, so scanned layers would count as one.
  Instead, models of one and two unrolled layers are compiled, and the
  difference for each attention is added for every layer that has it.

  Returns:
    (FLOPs, bytes), or None if the compiler does not count or runs out of
    memory.
  """
  model = step_lib.model_config(config)
  first_layer, *others = model.layers
  whole = _changed(config, train={"accumulation_steps": 1})

  def probe(*layers):
    unrolled = dataclasses.replace(
      model,
      num_layers=len(layers),
      attention=layers,
      scan_layers=False,
      query_block=0,
    )
    name = f"{len(layers)} layer(s)"
    result = _compile_and_print(name, whole, devices, unrolled)
    return result.flops, result.traffic

  first = probe(first_layer)
  if None in first:
    return None
  totals = list(first)
  for layer in dict.fromkeys(others):
    second = probe(first_layer, layer)
    if None in second:
      return None
    for i in range(2):
      totals[i] += (second[i] - first[i]) * others.count(layer)
  return tuple(totals)


def largest_batch(config, devices, measured: aot.Report, fixed: int) -> int:
  """Returns the largest number of sequences per batch shard that fits.

  Args:
    config, devices: as for `compile_update`.
    measured: report of `compile_update`.
    fixed: bytes of the state, the cost at 0 sequences.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  ways = sharding.batch_ways(mesh)

  def bytes_of(sequences):
    changed = _changed(config, train={"batch_size": sequences * ways})
    return _compile_and_print(
      f"{sequences} sequences {_on(mesh)}", changed, devices
    ).peak

  return aot.largest(
    bytes_of,
    aot.capacity(devices[0]),
    _LARGEST,
    {0: fixed, config.train.batch_size // ways: measured.peak},
    config.train.accumulation_steps,
  )


def _gib(size):
  return f"{size / 2**30:.3f} GiB" if size < math.inf else "more"


def run(config, topology: str):
  """Compiles the update and prints progress and the report.

  Raises:
    ValueError: as raised by `aot.devices` and `compile_update`.
  """
  devices = aot.devices(topology)
  steps = step_lib.build_steps(config, sharding.make_mesh(config.mesh, devices))
  name = f"{len(devices)} x {devices[0].device_kind}"
  report.say(f"compiling the update for {name}; a compile takes up to minutes")
  measured = _compile_and_print("the config's batch", config, devices)
  counted = None
  if measured.flops is not None:
    report.say("compiling one layer and two without a loop, to count all")
    counted = counts(config, devices)
  report.say("looking for the largest batch that fits")
  fixed = bytes_per_device(steps.abstract_state)
  most = largest_batch(config, devices, measured, fixed)
  report.say("")
  for line in (
    *_memory(steps, name, measured, devices, config.train.accumulation_steps),
    f"  largest batch that fits    {_most(most, _on(steps.mesh))}",
    "",
    *_work(steps, measured, counted, devices),
  ):
    report.say(line)


def _on(mesh):
  """Returns the devices of one batch shard in words."""
  devices = mesh.size // sharding.batch_ways(mesh)
  return "a device" if devices == 1 else f"on each {devices} devices"


def _most(sequences, on):
  if not sequences:
    return f"none: not one sequence {on} does"
  if sequences >= _LARGEST:
    on += " or more; larger batches were not tried"
  return f"{sequences:,} sequences {on}"


def _memory(steps, name, measured, devices, parts):
  """Yields the report's lines on memory per device."""
  state, batch = steps.abstract_state, steps.abstract_batch
  size, length = steps.batch_size, steps.task.length
  own = size // sharding.batch_ways(steps.mesh)
  kept = bytes_kept(steps) * own // parts // steps.mesh.shape["sequence"]
  whole = ", heads together" if steps.mesh.shape["tensor"] > 1 else ""
  room = aot.capacity(devices[0])
  rows = [
    ("parameters", bytes_per_device(state.params), "exact"),
    ("constants", bytes_per_device(state.constants), "exact"),
    ("optimizer", bytes_per_device(state.opt_state), "exact"),
    ("batch", bytes_per_device(batch), "exact"),
    (
      "kept for backward",
      kept,
      f"analytic, before fusion{whole}; part of the temporaries",
    ),
    ("temporaries", measured.temporaries, "the compiler's estimate"),
    ("peak", measured.peak, "the compiler's estimate, arguments included"),
    (
      "available",
      room,
      "all of a GPU, or what a TPU leaves to programs",
    ),
  ]
  yield (
    f"{name}: {size:,} sequences of {length:,} tokens an update, {own:,} "
    f"{_on(steps.mesh)}{f', in {parts} parts' if parts > 1 else ''}"
  )
  yield f"memory of a device: {'fits' if measured.peak <= room else 'TOO BIG'}"
  for kind, value, source in rows:
    if kind == "temporaries" and measured.exhausted:
      continue
    if value:
      yield f"  {kind:18} {_gib(value):>12}  {source}"
  if devices[0].platform == "gpu":
    yield (
      "  of which CUDA needs some, and JAX takes 75% unless "
      "XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise"
    )


def _work(steps, measured, counted, devices):
  """Yields the report's lines on the work of an update per device."""
  needed = steps.flops / len(devices)
  peak = flops.PEAK_FLOPS[devices[0].device_kind]
  yield "an update on a device"
  yield f"  FLOPs needed       {needed / 1e9:>12,.1f} G  analytic"
  if counted:
    yield (
      f"  FLOPs compiled     {counted[0] / 1e9:>12,.1f} G  the compiler's "
      "estimate, extrapolated from one layer and two"
    )
    yield (
      f"  bytes accessed     {counted[1] / 1e9:>12,.1f} G  likewise; on-chip "
      "memory included"
    )
  else:
    yield "  FLOPs compiled     unknown: no count, or out of memory"
  if measured.collectives is None and not measured.exhausted:
    yield "  collectives        unknown: the compiler returns no program text"
  for kind, value in sorted((measured.collectives or {}).items()):
    yield (
      f"  {kind:18} {value / 1e9:>12,.3f} GB read off the program, "
      "loops as often as they run"
    )
  yield (
    f"  shortest time      {1e3 * needed / peak:>12,.1f} ms FLOPs needed over "
    f"{peak / 1e12:,.0f} TFLOP/s, the published bfloat16 peak"
  )

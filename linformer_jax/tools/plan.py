"""Plans a training run: compiles its update for hardware that is not there.

What is exact, what an analytic count and what a compiler's estimate is said in
the report. Nothing is run, no data is read and nothing is written.
"""

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
_LARGEST = 4096  # sequences of one share of a batch, the most that is tried


def bytes_kept(steps: step_lib.Steps) -> int:
  """Bytes that the backward pass of one more sequence reads of the forward one.

  Shapes of what jax.vjp keeps, before any fusion or recomputation by the
  compiler, which keeps less.
  """
  rates = steps.model.dropout_rate, steps.model.attention_dropout_rate
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

    key = jax.eval_shape(lambda: jax.random.key(0)) if any(rates) else None
    shapes = jax.eval_shape(backward, state.params, batch, key)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

  # The difference leaves out weights, which are kept once and not a sequence.
  return kept(2) - kept(1)


def _changed(config, **groups):
  """A copy of a config with fields of some groups changed."""
  copy = config_dict.ConfigDict(config.to_dict())
  for group, fields in groups.items():
    copy[group].update(fields)
  return copy


def compile_update(config, devices) -> aot.Report:
  """Compiles the update that training runs.

  Raises:
    ValueError: for a config whose values do not fit each other or the devices.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  steps = step_lib.build_steps(config, mesh)
  return aot.compile_report(
    steps.train, steps.abstract_state, steps.abstract_batch
  )


def _told(name, config, devices):
  """`compile_update`, with a line on what came out and how long it took."""
  start = time.perf_counter()
  result = compile_update(config, devices)
  took = report.clock(time.perf_counter() - start)
  report.say(f"  {name}: {_gib(result.peak)}, compiled in {took}")
  return result


def counts(config, devices) -> tuple[float, float] | None:
  """FLOPs and bytes moved of an update on a device, by the compiler's count.

  A compiler counts a loop's body once, so that layers in a loop would count as
  one. A stack of one layer and stacks of two are compiled without loops; what
  the second layer of each projected length adds is added for all layers.

  Returns:
    None where the compiler does not count, or runs out of memory.
  """
  model = config.model
  lengths = [0] * model.num_layers
  if model.attention == "linformer":
    lengths = step_lib.model_config(model).projected_lengths

  def probe(*lengths):
    fields = dict(num_layers=len(lengths), scan_layers=False, query_block=0)
    if any(lengths):
      fields["projected_lengths"] = lengths
    unrolled = _changed(config, model=fields, train={"accumulation_steps": 1})
    result = _told(f"{len(lengths)} layer(s)", unrolled, devices)
    return result.flops, result.traffic

  first = probe(lengths[0])
  if None in first:
    return None
  totals = list(first)
  for k in dict.fromkeys(lengths[1:]):
    second = probe(lengths[0], k)
    if None in second:
      return None
    for i in range(2):
      totals[i] += (second[i] - first[i]) * lengths[1:].count(k)
  return tuple(totals)


def largest_batch(config, devices, measured: aot.Report, fixed: int) -> int:
  """The largest number of sequences whose update fits.

  Counted on a device, or on all those together that divide sequences.

  Args:
    config, devices: as for `compile_update`.
    measured: its report.
    fixed: bytes of the state, where the search starts.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  ways = sharding.batch_ways(mesh)

  def bytes_of(sequences):
    changed = _changed(config, train={"batch_size": sequences * ways})
    return _told(f"{sequences} sequences {_on(mesh)}", changed, devices).peak

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
  """Compiles and prints the report, with progress on the way.

  Raises:
    ValueError: for what `aot.devices` or `compile_update` refuse.
  """
  devices = aot.devices(topology)
  steps = step_lib.build_steps(config, sharding.make_mesh(config.mesh, devices))
  name = f"{len(devices)} x {devices[0].device_kind}"
  report.say(f"compiling the update for {name}; a compile takes up to minutes")
  measured = _told("the config's batch", config, devices)
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
  """The devices that share the sequences of one part of a batch, in words."""
  devices = mesh.size // sharding.batch_ways(mesh)
  return "a device" if devices == 1 else f"on each {devices} devices"


def _most(sequences, on):
  if not sequences:
    return f"none: not one sequence {on} does"
  limit = " at least, more were not tried" if sequences >= _LARGEST else ""
  return f"{sequences:,} sequences {on}{limit}"


def _memory(steps, name, measured, devices, parts):
  """Lines on the memory of each device."""
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
    ("available", room, "all of a GPU's, what a TPU leaves to programs"),
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
  """Lines on the work of an update on each device."""
  needed = steps.flops / len(devices)
  peak = flops.PEAK_FLOPS[devices[0].device_kind]
  yield "an update on a device"
  yield f"  FLOPs needed       {needed / 1e9:>12,.1f} G  analytic"
  if counted:
    yield (
      f"  FLOPs compiled     {counted[0] / 1e9:>12,.1f} G  the compiler's "
      "estimate; of one and two layers, for all"
    )
    yield (
      f"  bytes accessed     {counted[1] / 1e9:>12,.1f} G  likewise; on-chip "
      "memory included"
    )
  else:
    yield "  FLOPs compiled     not known: no count, or out of memory"
  if measured.collectives is None and not measured.exhausted:
    yield "  collectives        not known: the compiler prints no program"
  for kind, value in sorted((measured.collectives or {}).items()):
    yield (
      f"  {kind:18} {value / 1e9:>12,.3f} GB read off the program, "
      "loops as often as they run"
    )
  yield (
    f"  shortest time      {1e3 * needed / peak:>12,.1f} ms FLOPs needed over "
    f"{peak / 1e12:,.0f} TFLOP/s, the published bfloat16 peak"
  )

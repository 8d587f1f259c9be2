"""Runs updates on one very long sequence that lies on eight CPU devices.

  .venv/bin/python -m experiments long --n=1048576 --width=256

Two updates of a Linformer of two layers on random tokens: E = F for all layers,
layers computed again in the backward pass, positions in blocks. Appends a line
to results/long.jsonl: seconds of the second update, losses, and the peak of
the resident memory; one that does not fit the memory says so.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from experiments import grid

RESULTS = pathlib.Path(__file__).parent / "results" / "long.jsonl"
DEVICES = 8
# A device that waits for others blocks a thread of the pool, which by default
# has one thread per core. On two cores, eight devices wait long.
CPU = {
  "JAX_PLATFORMS": "cpu",
  "JAX_NUM_CPU_DEVICES": str(DEVICES),
  "NPROC": str(2 * DEVICES),
  "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
  "XLA_FLAGS": "--xla_cpu_collective_call_warn_stuck_timeout_seconds=1200 "
  "--xla_cpu_collective_call_terminate_timeout_seconds=1200",
}


def records(path: pathlib.Path = RESULTS) -> list[dict]:
  """Returns all runs in a file."""
  return grid.lines(path)


def make_config(n: int, width: int, k: int):
  """Returns the config of a run."""
  from configs import linformer

  config = linformer.get_config(f"n={n},k={k},sharing=layerwise")
  config.update_from_flattened_dict(
    {
      "model.vocab_size": 1024,
      "model.num_layers": 2,
      "model.embed_dim": width,
      "model.mlp_dim": 4 * width,
      "model.num_heads": width // 64,
      "model.dropout_rate": 0.0,
      "attention.dropout_rate": 0.0,
      "attention.implementation": "flash",
      "model.query_block": 1024,
      "model.remat": True,
      "mesh.sequence": DEVICES,
      "train.batch_size": 1,
      "run.eval_batch_size": 1,
      "optimizer.warmup_steps": 1,
    }
  )
  return config


def updates(config, limit: int) -> dict:
  """Returns losses and seconds of two updates on random tokens.

  Compiles first. A program that needs more than `limit` bytes is not run, as
  the other devices would wait forever for one that is out of memory.
  """
  import jax
  import numpy as np

  from linformer_jax import step
  from linformer_jax.parallel import sharding

  steps = step.build_steps(config, sharding.make_mesh(config.mesh))
  compiled = steps.train.lower(steps.abstract_state, steps.abstract_batch)
  compiled = compiled.compile()
  memory = compiled.memory_analysis()
  needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
  asked = {"asked_bytes": DEVICES * needed}
  if DEVICES * needed > limit:
    return {"out_of_memory": True, "limit_bytes": limit, **asked}
  rng = np.random.default_rng(0)
  shapes = steps.abstract_batch
  length, count = shapes["tokens"].shape[1], shapes["positions"].shape[1]
  tokens = rng.integers(5, 1024, (1, length), dtype=np.int32)
  positions = np.sort(rng.choice(length, (1, count), replace=False))
  batch = {
    "tokens": tokens,
    "positions": positions.astype(np.int32),
    "targets": np.take_along_axis(tokens, positions, 1),
    "weights": np.ones((1, count), np.float32),
  }
  batch = steps.place(batch)
  state, losses, seconds = steps.init(), [], []
  for _ in range(2):
    start = time.perf_counter()
    state, values = compiled(state, batch)
    losses.append(float(values["loss"] / values["weight"]))
    jax.block_until_ready(state)
    seconds.append(time.perf_counter() - start)
  return {
    "losses": losses,
    "seconds": seconds[-1],
    **asked,
    "peak_resident_bytes": 1024
    * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
  }


def main():
  """Runs the updates in a separate process and writes the result."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--n", type=int, default=2**17, help="tokens")
  parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
  parser.add_argument("--k", type=int, default=128, help="projected length")
  parser.add_argument(
    "--memory_gb", type=float, default=22.0, help="beyond it, out of memory"
  )
  parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
  parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
  given = parser.parse_args()
  limit = int(given.memory_gb * 1e9)
  if given.inner:
    config = make_config(given.n, given.width, given.k)
    print(json.dumps(updates(config, limit)))
    return
  start = time.time()
  names = ("n", "width", "k", "memory_gb")
  done = subprocess.run(
    [sys.executable, "-m", "experiments.topologies.long", "--inner"]
    + [f"--{name}={getattr(given, name)}" for name in names],
    capture_output=True,
    text=True,
    env=os.environ | CPU,
    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
  )
  from experiments.speed import measure
  from linformer_jax import hardware

  if done.returncode == 0:
    record = json.loads(done.stdout.splitlines()[-1])
  elif measure.out_of_memory(done):
    record = {"out_of_memory": True, "limit_bytes": limit}
  else:
    raise SystemExit(f"long: {done.stderr[-2000:]}")
  sizes = {"n": given.n, "width": given.width, "k": given.k, "layers": 2}
  sizes |= {"sequence": DEVICES}
  line = sizes | record | hardware.environment()
  line["wall_seconds"] = round(time.time() - start, 1)
  grid.append(given.results, line)
  print(json.dumps(line))


if __name__ == "__main__":
  main()

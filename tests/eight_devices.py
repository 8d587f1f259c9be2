"""What test_sharding.py runs in a process of its own, with eight CPU devices.

  python -m tests.eight_devices FOLDER

Leaves one.npz and eight.npz in the folder: losses, gradient and parameters of
two updates, sums of an evaluation, and facts on the compiled update.
"""

import json
import pathlib
import sys

import jax
import numpy as np
import optax

from linformer_jax import checkpoint, sharding, step
from linformer_jax.data import pipeline
from tests import runs, tiny


def batches(config):
  data = pipeline.DataConfig(**config.data.to_dict())
  corpus = pipeline.prepare(data)
  size = config.train.batch_size
  iterator = pipeline.train_iterator(corpus, data, size)
  return [next(iterator), next(iterator)]


def updates(config, devices):
  """(arrays by name, state, facts) of two updates on some devices."""
  steps = step.build_steps(config, sharding.make_mesh(config.mesh, devices))
  compiled = steps.train.lower(steps.abstract_state, steps.abstract_batch)
  compiled = compiled.compile()
  facts = {
    "flops": compiled.cost_analysis()["flops"],
    "alias": compiled.memory_analysis().alias_size_in_bytes,
    "arguments": compiled.memory_analysis().argument_size_in_bytes,
    "all-reduce": "all-reduce" in compiled.as_text(),
    "all-gather": "all-gather" in compiled.as_text(),
  }
  arrays, state = {}, steps.init()
  for i, batch in enumerate(batches(config)):
    batch = sharding.to_global(batch, steps.batch_sharding)
    facts["rows"] = [len(x.data) for x in batch["tokens"].addressable_shards]
    state, values = compiled(state, batch)
    arrays |= {f"{name} {i}": values[name] for name in values}
    if not i:
      gradient = optax.tree.get(state.opt_state, "mu")
      for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        arrays[f"gradient {jax.tree_util.keystr(path)}"] = np.array(leaf)
  sums = steps.evaluate(state, batch)
  arrays |= {f"evaluation {name}": sums[name] for name in sums}
  return arrays, state, steps, facts


def main():
  folder = pathlib.Path(sys.argv[1])
  config = tiny.get_config()
  config.train.batch_size = 16
  config.train.accumulation_steps = 2
  state = {}
  for name, devices in (("one", jax.devices()[:1]), ("eight", jax.devices())):
    arrays, state[name], steps, facts = updates(config, devices)
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps(facts))
    if name == "one":
      like = steps.abstract_state
  # A checkpoint of eight devices, restored to one.
  with checkpoint.Checkpoints(folder) as saved:
    saved.save(2, state["eight"], {})
    saved.wait()
    restored, _ = saved.restore(like)
  runs.assert_same_bits(
    jax.device_get(restored), jax.device_get(state["eight"])
  )
  assert {x.sharding for x in jax.tree.leaves(restored)} == {
    x.sharding for x in jax.tree.leaves(like)
  }


if __name__ == "__main__":
  main()

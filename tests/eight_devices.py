"""What test_mesh.py runs in a process of its own, with eight CPU devices.

  python -m tests.eight_devices FOLDER CASES

CASES is JSON, {name: [fields of the config, devices]}, where `attention` and
`task` are names; leaves NAME.npz in the folder, with losses, gradient and
parameters of two updates and sums of an evaluation, and NAME.json with facts on
the compiled update.
"""

import json
import pathlib
import sys

import jax
import numpy as np
import optax

from linformer_jax import origin, step
from linformer_jax.data import pipeline
from linformer_jax.parallel import sharding
from linformer_jax.run import checkpoint
from linformer_jax.tools import hlo
from tests import labeled, runs, tiny


def make_config(fields, folder=None):
  fields = dict(fields)
  config = tiny.get_config(fields.pop("attention", "linformer"))
  if task := fields.pop("task", None):
    with config.unlocked():
      config.task = {"name": task}
      if task == "causal_lm":
        config.task.document_mask = False
      if task == "matching":
        config.task.update(num_classes=3, metric="accuracy")
        config.data.source, config.data.separate_pairs = "labeled", True
        path = labeled.write(folder / "pairs.jsonl", pair=True)
        config.data.files = str(path)
  config.train.batch_size = 16
  config.run.eval_batch_size = 16
  config.update_from_flattened_dict(fields)
  return config


def batches(config, task):
  corpus = pipeline.prepare(pipeline.DataConfig(**config.data.to_dict()))
  size = config.train.batch_size
  train = pipeline.train_iterator(corpus, task, config.data.seed, size)
  # The last batch has padding and filler rows.
  *_, last = pipeline.validation_batches(corpus, task, size)
  first = [_divided(next(train)), _divided(next(train))]
  return first, _divided(last)


def _divided(batch):
  """A batch whose documents have seven tokens, where they are kept apart."""
  if "documents" not in batch:
    return batch
  rows, length = batch["documents"].shape
  ids = 1 + (np.arange(length) + np.arange(rows)[:, None]) // 7
  ids = np.where(batch["documents"] > 0, ids, 0).astype(np.int32)
  return batch | {"documents": ids}


def updates(config, devices):
  """(arrays by name, state, steps, facts) of two updates on some devices."""
  steps = step.build_steps(config, sharding.make_mesh(config.mesh, devices))
  compiled = steps.train.lower(steps.abstract_state, steps.abstract_batch)
  compiled = compiled.compile()
  facts = {
    "flops": compiled.cost_analysis()["flops"],
    "alias": compiled.memory_analysis().alias_size_in_bytes,
    "arguments": compiled.memory_analysis().argument_size_in_bytes,
    "collectives": hlo.collectives(compiled.as_text()),
  }
  arrays, state = {}, steps.init()
  train, last = batches(config, steps.task)
  for i, batch in enumerate(train):
    batch = steps.place(batch)
    facts["rows"] = [x.data.shape for x in batch["tokens"].addressable_shards]
    state, values = compiled(state, batch)
    arrays |= {f"{name} {i}": values[name] for name in values}
    if not i:
      gradient = optax.tree.get(state.opt_state, "mu")
      for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        arrays[f"gradient {jax.tree_util.keystr(path)}"] = np.array(leaf)
  sums = steps.evaluate(state, steps.place(last))
  arrays |= {f"evaluation {name}": sums[name] for name in sums}
  return arrays, state, steps, facts


def check_restored(folder, states):
  """A checkpoint of eight devices, restored to one, and to eight others."""
  one, eight = states
  with checkpoint.Checkpoints(folder) as saved:
    saved.save(2, eight[0], {})
    saved.wait()
    for _, steps in states:
      like = steps.abstract_state
      restored, _ = saved.restore(like)
      runs.assert_same_bits(jax.device_get(restored), jax.device_get(eight[0]))
      assert [x.sharding for x in jax.tree.leaves(restored)] == [
        x.sharding for x in jax.tree.leaves(like)
      ]


def check_placed(state, steps):
  """Weights of a file start a model; each device gets its part alone."""
  host = jax.device_get({"params": state.params, "constants": state.constants})
  source = origin.Origin("FILE", pathlib.Path("FILE"), is_run=False)
  vars(source)["_exported"] = {"variables": host, "step": 2}
  parts, make = [], jax.make_array_from_callback

  def noted(shape, place, read):
    assert read(place.devices_indices_map(shape)[jax.devices()[0]]).shape == (
      place.shard_shape(shape)
    )
    parts.append(place.shard_shape(shape) != shape)
    return make(shape, place, read)

  jax.make_array_from_callback = noted
  fresh = steps.init()
  found, line = origin.start(source, fresh, None, steps.model)
  jax.make_array_from_callback = make
  assert "after 2 updates" in line and "new" not in line, line
  assert any(parts)
  runs.assert_same_bits(jax.device_get(found.params), host["params"])
  for a, b in zip(
    *map(jax.tree.leaves, (found.params, state.params)), strict=True
  ):
    assert a.sharding == b.sharding


def main():
  folder, cases = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
  states = {}
  for name, (fields, devices) in cases.items():
    config = make_config(fields, folder)
    arrays, state, steps, facts = updates(config, jax.devices()[:devices])
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps(facts))
    states.setdefault(devices, (state, steps))
  check_restored(folder, [states[1], states[8]])
  check_placed(*states[8])


if __name__ == "__main__":
  main()

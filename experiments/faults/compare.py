"""Compares two runs bit-for-bit, except for timings."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from linformer_jax import train
from linformer_jax.run import checkpoint, metrics, workdir
from linformer_jax.run import result as result_lib

# Metrics that depend on the clock and the machine.
CLOCK = {"time", "eval/seconds", "train/step_seconds", "train/memory_bytes"}
CLOCK |= {"train/tokens_per_second", "train/mfu"}
RESULT = ("step", "perplexity", "unigram_perplexity", "accuracy", "targets")


@dataclasses.dataclass(frozen=True)
class Run:
  """What a complete run left behind.

  Attributes:
    state: dtype, shape and bytes of every array, by its path in the tree.
    data: the position in the data.
    window: sums of the updates since the last row.
    rows: the rows of metrics.jsonl, without `CLOCK`.
    result: the fields of result.json that do not depend on the machine.
  """

  state: dict[str, tuple]
  data: Any
  window: Any
  rows: list[dict]
  result: dict


class Reader:
  """Reads runs of one config."""

  def __init__(self, whole: pathlib.Path, text: pathlib.Path):
    """Takes the folders of a run of that config and of its token cache."""
    config = config_dict.ConfigDict(workdir.stored_config(whole))
    config.data.cache_dir = str(text)
    self._abstract = train.build(config).steps.abstract_state

  def read(self, folder: pathlib.Path) -> Run:
    """Reads the newest checkpoint, metrics.jsonl and result.json."""
    with checkpoint.Checkpoints(folder, read_only=True) as saved:
      state, note = saved.restore(self._abstract)
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
      array = np.asarray(jax.device_get(leaf))
      content = (str(array.dtype), array.shape, array.tobytes())
      arrays[jax.tree_util.keystr(path)] = content
    result = json.loads((folder / result_lib.RESULT).read_text())
    return Run(
      state=arrays,
      data=note["data"],
      window=note["window"],
      rows=without_clock(metrics.read_json_lines(folder)),
      result={name: result[name] for name in RESULT},
    )


def without_clock(rows: list[dict]) -> list[dict]:
  """Returns rows of metrics.jsonl without the metrics in `CLOCK`."""
  return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def difference(actual: Run, expected: Run) -> str:
  """Describes the first difference of two runs in a few words, '' if none."""
  for field in dataclasses.fields(Run):
    one, other = (getattr(run, field.name) for run in (actual, expected))
    if one == other:
      continue
    if field.name == "state":
      names = [x for x in one | other if one.get(x) != other.get(x)]
      return f"the state differs at {names[0]} and {len(names) - 1} more places"
    if field.name == "rows":
      return f"metrics.jsonl differs: {len(one)} rows, {len(other)} expected"
    return f"{field.name} is {one}, not {other}"
  return ""

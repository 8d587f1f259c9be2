"""The best evaluation of a run, whose checkpoint `run.keep_best` keeps.

Orbax's `BestN` ranks checkpoints by metrics that it reads from all of them when
it opens the folder, where a damaged file is not handled. Here the notes of
checkpoints carry the best so far, which resumes with everything else.
"""

import dataclasses
import json
import math
from typing import Any

import jax

from linformer_jax.run import files

FILE = "best.json"


@dataclasses.dataclass
class Best:
  """The best evaluation so far.

  Attributes:
    directory: the run's folder.
    task: a `tasks.Task`, whose headline is compared.
    found: {'step': updates completed, 'score': the headline}, or None.
  """

  directory: Any
  task: Any
  found: dict[str, Any] | None = None

  def takes(self, step: int, evaluation: dict[str, float] | None) -> bool:
    """Returns whether an evaluation is the best so far, and remembers it."""
    if not evaluation or (self.found and self.found["step"] == step):
      return False
    score = evaluation[f"eval/{self.task.headline}"]
    sign = 1 if self.task.larger_is_better else -1
    if math.isnan(score) or (
      self.found and sign * score <= sign * self.found["score"]
    ):
      return False
    self.found = {"step": step, "score": score}
    return True

  def result(self) -> dict[str, Any]:
    """Returns what result.json has of it."""
    if not self.found:
      return {}
    score = {f"best_{self.task.headline}": self.found["score"]}
    return {"best_step": self.found["step"]} | score

  def write(self):
    """Writes best.json, or removes it if there is nothing yet."""
    if jax.process_index():
      return
    path = files.folder(self.directory) / FILE
    if self.found:
      files.write_atomically(path, json.dumps(self.found) + "\n")
    else:
      path.unlink(missing_ok=True)


def step_of(directory) -> int | None:
  """Returns the step of the checkpoint that a run kept as its best, or None.

  Raises:
    ValueError: if best.json cannot be read.
  """
  path = directory / FILE
  if not path.exists():
    return None
  try:
    return int(json.loads(path.read_text())["step"])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from error

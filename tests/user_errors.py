"""Runs command lines that a user may get wrong, and judges how they end.

All that is known of them is how they have to end: with status 0, or with status
2, one line on stderr and nothing left behind.
"""

import dataclasses
import logging
import multiprocessing
import os
import pathlib
import re
import resource
import sys

ROOT = pathlib.Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
  ["linformer_jax.main", "linformer_jax.train", "tests.user_errors"]
)
CONFIG, RUN = "--config=configs/smoke.py", "--workdir=run"
SECONDS, BYTES = 120, 16 * 2**30  # that a command may take
# Lines on stderr about text that is tokenized, which are no complaint.
PROGRESS = re.compile(
  r"(Reading|Training a tokenizer|Tokeni[sz]ing|The training text yields) .*"
)
TINY = {
  "data.source": "synthetic",
  "model.vocab_size": 300,
  "model.max_length": 16,
  "attention.projected_length": 8,
  "model.embed_dim": 16,
  "model.position_dims": 8,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "train.batch_size": 4,
  "train.num_steps": 4,
  "optimizer.warmup_steps": 1,
}


@dataclasses.dataclass(frozen=True)
class Case:
  """A command line with what it stands on.

  Attributes:
    words: of the command line.
    files: content by path, in the folder that the command is started in.
    environment: variables; '{tmp}' in them and in words is that folder.
  """

  words: tuple[str, ...]
  files: dict[str, bytes] = dataclasses.field(default_factory=dict)
  environment: dict[str, str] = dataclasses.field(default_factory=dict)


def flags(**fields) -> list[str]:
  """Flags of the tiny run with fields changed: model__max_length=8."""
  fields = {name.replace("__", "."): x for name, x in fields.items()}
  values = (TINY | fields).items()
  return [f"--config.{name}={value}" for name, value in values]


def _trace(experiment, workdir):
  """In place of training: everything up to the first update, on shapes."""
  import jax

  steps = experiment.steps
  jax.eval_shape(steps.train, steps.abstract_state, steps.abstract_batch)
  os._exit(0)


def _main(words, environment, folder):
  """The forked process."""
  from linformer_jax import main, train

  for number, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT), number)
  resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
  logging.getLogger().handlers.clear()  # the command sets its own
  train.train_and_evaluate = _trace
  os.chdir(folder)
  os.environ.update(environment)
  sys.argv = ["main", *words]
  sys.exit(main.main())


def contents(folder: pathlib.Path) -> dict[str, bytes | None]:
  """All that is in a folder, without the cache of texts."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in folder.rglob("*")
    if "cache" not in path.relative_to(folder).parts
  }


def problem_of(case: Case, folder: pathlib.Path) -> str | None:
  """Runs a command up to its first update; what is wrong with how it ends."""
  folder.mkdir()
  for name, content in case.files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  words = [word.replace("{tmp}", str(folder)) for word in case.words]
  environment = {"JAX_PLATFORMS": "cpu"} | case.environment
  for name, value in environment.items():
    environment[name] = value.replace("{tmp}", str(folder))
  before = contents(folder)
  process = CONTEXT.Process(target=_main, args=(words, environment, folder))
  process.start()
  process.join(SECONDS)
  status = process.exitcode
  if status is None:
    process.kill()
    process.join()
    return f"does not end in {SECONDS} seconds"
  if status == 0:
    return None
  err = pathlib.Path(f"{folder}.err").read_text(errors="replace")
  return complaint(status, err) or (
    None if contents(folder) == before else "leaves something behind"
  )


def complaint(status: int, err: str) -> str | None:
  """What is wrong with a status and what is on stderr."""
  *lines, last = err.splitlines() or [""]
  others = [line for line in lines if not PROGRESS.fullmatch(line)]
  if status != 2 or others or not last.startswith("linformer_jax: "):
    return f"exit {status}: {err[-1500:]}"
  return None

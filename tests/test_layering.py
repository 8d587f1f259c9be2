"""Imports point down; leaves import nothing of ours."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "linformer_jax"
# From the top; a room or module may import from below its own line, and a
# module from its own room.
LINES = [
  ("main",),
  ("run.seeds",),
  ("run.commands",),
  ("tools.plan", "train"),
  ("origin", "predict", "generate", "convert"),
  ("loading",),
  ("exported",),
  (
    "evaluate",
    "run.checkpoint",
    "run.command_line",
    "run.report",
    "run.result",
  ),
  ("run.config_file",),
  (
    "run.best",
    "run.workdir",
    "run.config_fields",
    "run.metrics",
    "run.preemption",
    "step",
  ),
  ("tasks",),
  ("tools", "optimizer", "data"),
  ("parallel.sharding",),
  ("models",),
  ("models.initializers", "attention"),
  ("parallel", "flops"),
  ("run.events",),
  (
    "run.files",
    "run.fingerprints",
    "run.flag_list",
    "run.startup",
    "hardware",
    "memory",
    "tools.hlo",
  ),
  ("run.console", "run.paths"),
]
LEVEL = {name: i for i, line in enumerate(LINES) for name in line}
LEAVES = [
  "flops",
  "hardware",
  "memory",
  "tools.hlo",
  "run.console",
  "run.paths",
]
LEAVES += ["data.text.masking", "data.text.special", "data.text.wordpiece"]


def name_of(path):
  """A module's name within the package: data.text.tokenizer."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(parts).removesuffix(".__init__")


MODULES = {
  name_of(path): path
  for path in sorted(PACKAGE.rglob("*.py"))
  if path.parent != PACKAGE or path.stem != "__init__"
}


def imports(path):
  """Full names of what a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        yield f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name


def prefixes(name):
  parts = name.split(".")
  return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def ours(name):
  """The modules of the package that one imports."""
  for other in imports(MODULES[name]):
    if other.startswith("linformer_jax."):
      inside = prefixes(other.removeprefix("linformer_jax."))
      found = next((prefix for prefix in inside if prefix in MODULES), None)
      assert found, f"{name} imports {other}"
      yield found


def level(name):
  return next(LEVEL[prefix] for prefix in prefixes(name) if prefix in LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
  room = name.split(".")[0]
  for other in ours(name):
    if name == room and other.startswith(f"{room}."):
      continue  # a room's __init__ names what is in it
    if level(other) == level(name) and other.split(".")[0] == room:
      continue
    assert level(other) > level(name), f"{name} imports {other}"


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_of_ours(leaf):
  assert not list(ours(leaf))


@pytest.mark.parametrize("name", MODULES)
def test_the_library_does_not_import_configs_or_experiments(name):
  for other in imports(MODULES[name]):
    assert other.split(".")[0] not in ("configs", "experiments", "tests")


@pytest.mark.parametrize("name", MODULES)
def test_tasks_alone_name_tasks_and_their_metrics(name):
  if name.split(".")[0] != "tasks":
    text = MODULES[name].read_text().lower()
    for word in ("masked_lm", "causal_lm", "perplexity", "unigram"):
      assert word not in text


# What has "linformer" in its name besides an attention: the package, its cache
# and a config file that help texts show.
_PROPER = re.compile(r"linformer_jax|LINFORMER_CACHE|configs/linformer\.py")


@pytest.mark.parametrize("name", MODULES)
def test_attention_alone_names_linformer(name):
  """All else takes any attention; converted weights are of certain ones."""
  exempt = ("attention", "models.importers", "models.convert")
  if not any(prefix in exempt for prefix in prefixes(name)):
    text = _PROPER.sub("", MODULES[name].read_text())
    assert "linformer" not in text.lower()

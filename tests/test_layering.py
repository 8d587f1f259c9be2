"""Imports point down; leaves import nothing of ours."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "linformer_jax"
# From the top; a module may import from any room below its own.
ROOMS = [
  ("main",),
  ("commands",),
  ("plan", "train"),
  ("load",),
  ("checkpoint", "command_line", "evaluate", "report", "workdir"),
  ("config_fields", "metrics", "preemption", "step"),
  ("aot", "benchmark", "tasks", "optimizer", "sharding", "data", "spectrum"),
  ("model", "pretrained"),
  ("bert",),
  ("model_config",),
  ("attention", "initializers"),
  ("files", "flops", "hlo", "memory", "startup"),
  ("console", "paths"),
]
LEVEL = {name: i for i, rooms in enumerate(ROOMS) for name in rooms}
LEAVES = [
  "console.py",
  "flops.py",
  "hlo.py",
  "memory.py",
  "paths.py",
  "data/masking.py",
  "data/tokenizer.py",
]


def imports_of_ours(path):
  """Modules of the package that a file imports, without the package's name."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        yield f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name


def ours(path):
  """Top-level rooms of the package that a file imports."""
  for name in imports_of_ours(path):
    if name.startswith("linformer_jax."):
      yield name.split(".")[1]


def files():
  return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda p: p.stem)
def test_imports_point_down(path):
  room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
  if room == "__init__":
    return
  for other in ours(path):
    if other != room:
      assert LEVEL[other] > LEVEL[room], f"{path} imports {other}"


def test_every_module_has_a_room():
  rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in files()}
  assert rooms - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_of_ours(leaf):
  assert not list(ours(PACKAGE / leaf))


def test_the_library_does_not_import_configs_or_experiments():
  for path in files():
    for name in imports_of_ours(path):
      assert name.split(".")[0] not in ("configs", "experiments", "tests")

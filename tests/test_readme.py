"""README: its Python runs, and the files and flags that it names exist."""

import pathlib
import re

import pytest

from configs import base
from linformer_jax.run import metrics

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_a_run_is_loaded(finished, capsys):
  (block,) = [block for block in BLOCKS if "load.run" in block]
  names = {}
  block = block.replace("runs/smoke", str(finished))
  exec(compile(block, "README.md", "exec"), names)
  assert names["logits"].shape == (2, 32, 300)
  assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_python_runs():
  (block,) = [block for block in BLOCKS if "load.run" not in block]
  names = {}
  exec(compile(block, "README.md", "exec"), names)
  assert names["y"].shape == (2, 1000, 512)


def test_every_config_field_exists():
  fields = metrics.flatten(base.get_config().to_dict())
  groups = {name.split(".")[0] for name in fields}
  named = re.findall(r"--config\.([a-z_]+\.[a-z_]+)", PAGE)
  named += [
    name
    for name in re.findall(r"`([a-z]+\.[a-z_]+)`", PAGE)
    if name.split(".")[0] in groups and not name.endswith((".py", ".json"))
  ]
  assert named and set(named) <= set(fields)


@pytest.mark.parametrize(
  "path", sorted(set(re.findall(r"\]\(([\w/.]+)\)", PAGE)))
)
def test_links_lead_somewhere(path):
  assert (ROOT / path).exists()


def test_the_map_names_every_module():
  for path in (ROOT / "linformer_jax").glob("*.py"):
    if path.name != "__init__.py":
      assert path.name in PAGE

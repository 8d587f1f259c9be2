"""The pages: their Python runs, and what they name and link to exists."""

import pathlib
import re

import pytest
from flax import traverse_util

from configs import base
from linformer_jax import attention, tasks, train
from linformer_jax.attention import groups
from linformer_jax.data import pipeline
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("", "configs", "launch", "linformer_jax/run")
PAGES = [page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")]
PAGES += [
  page
  for depth in ("*.md", "*/*.md", "*/*/*.md")
  for page in (ROOT / "experiments").glob(depth)
]
TEXTS = {
  page.relative_to(ROOT).as_posix(): page.read_text() for page in sorted(PAGES)
}
LINKS = sorted(
  {
    (name, link)
    for name, text in TEXTS.items()
    for link in re.findall(r"\]\(([^)\s]+)\)", text)
    if not link.startswith("https://")
  }
)


def python_blocks(text):
  return re.findall(r"```python\n(.*?)```", text, re.S)


def ran(name, block):
  """Returns the names that a block of a page leaves."""
  names = {}
  exec(compile(block, name, "exec"), names)
  return names


def test_a_run_is_loaded(finished, capsys):
  (block,) = [
    b for b in python_blocks(TEXTS["README.md"]) if "linformer_jax.load(" in b
  ]
  names = ran("README.md", block.replace("runs/smoke", str(finished)))
  assert names["logits"].shape == (2, 32, 300)
  assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_layer_runs_in_eight_lines():
  block, *_ = python_blocks(TEXTS["README.md"])
  assert len(block.splitlines()) <= 8
  assert ran("README.md", block)["y"].shape == (2, 300, 256)


def block_with(word):
  blocks = python_blocks(TEXTS["README.md"])
  (block,) = [block for block in blocks if word in block]
  return block


def trained(config, workdir):
  """The result of a tiny run of a config."""
  config.train.num_steps = config.run.checkpoint_every_steps = 2
  config.optimizer.warmup_steps = 1
  return train.train_and_evaluate(train.build(config), workdir)


def test_an_attention_of_ones_own_trains(tmp_path, monkeypatch):
  monkeypatch.setattr(groups, "ATTENTIONS", groups.ATTENTIONS.copy())
  monkeypatch.setattr(attention, "ATTENTIONS", groups.ATTENTIONS)
  ran("README.md", block_with("MeanAttention"))
  config = tiny.get_config()
  base.set_attention(config, "mean+local")
  assert trained(config, tmp_path)["perplexity"] < 400


def test_a_task_and_a_data_set_of_ones_own_train(tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, "TASKS", tasks.TASKS.copy())
  monkeypatch.setattr(pipeline, "DATASETS", pipeline.DATASETS.copy())
  ran("README.md", block_with("class Tail"))
  ran("README.md", block_with("def countdown"))
  config = tiny.get_config()
  base.set_attention(config, "softmax")
  with config.unlocked():
    config.task = {"name": "tail"}
  config.data.source = "countdown"
  result = trained(config, tmp_path)
  assert result["targets"] == 8 * 7  # of 32 tokens, the last eight but one
  assert result["unigram_perplexity"] == pytest.approx(300)


@pytest.mark.parametrize("name", [n for n in TEXTS if n != "README.md"])
def test_the_python_of_other_pages_runs(name):
  for block in python_blocks(TEXTS[name]):
    assert ran(name, block)


def test_every_config_field_exists():
  mixed = base.get_config()
  base.set_attention(mixed, "local+linformer+linear+softmax")
  fields = {
    name: value
    for config in (base.get_config(), mixed)
    for name, value in traverse_util.flatten_dict(
      config.to_dict(), sep=".", keep_empty_nodes=True
    ).items()
  }
  groups = {name.split(".")[0] for name in fields}
  for page, text in TEXTS.items():
    named = re.findall(r"--config\.([a-z_]+(?:\.[a-z_0-9]+)+)", text)
    named += [
      name
      for name in re.findall(r"`([a-z]+\.[a-z_0-9]+)`", text)
      if name.split(".")[0] in groups and not name.endswith((".py", ".json"))
    ]
    assert set(named) <= set(fields), page
  assert "attention.sharing" in TEXTS["configs/README.md"]


def test_every_config_file_exists():
  for page, text in TEXTS.items():
    for name in re.findall(r"configs/\w+\.py", text):
      assert (ROOT / name).exists(), (page, name)
  for path in (ROOT / "configs").glob("[a-z]*.py"):
    assert f"[{path.name}]" in TEXTS["configs/README.md"]


def anchors(text):
  """The anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r"(?m)^#+ (.*)$", text)
  words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
  return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page, link", LINKS)
def test_links_lead_somewhere(page, link):
  path, _, anchor = link.partition("#")
  target = (ROOT / page).parent / path if path else ROOT / page
  assert target.exists()
  if anchor:
    assert anchor in anchors(target.read_text())


def test_the_readme_leads_to_every_page():
  found, new = set(), {"README.md"}
  while new:
    found |= new
    new = {
      ((ROOT / page).parent / link.partition("#")[0]).resolve()
      for page, link in LINKS
      if page in new
    }
    new = {p.relative_to(ROOT).as_posix() for p in new if p.suffix == ".md"}
    new -= found
  assert found == set(TEXTS)


def test_the_readme_is_short():
  assert len(TEXTS["README.md"].splitlines()) <= 200


def test_the_map_names_every_module():
  text = TEXTS["README.md"]
  for path in (ROOT / "linformer_jax").iterdir():
    if path.suffix == ".py" and path.name != "__init__.py":
      assert path.name in text
    elif (path / "__init__.py").exists():
      assert f"{path.name}/ " in text

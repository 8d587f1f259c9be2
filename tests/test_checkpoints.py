"""The pretrained models to take away: their size, cards and predictions."""

import pytest

import linformer_jax
from experiments.checkpoints import make, render
from experiments.finetune import data
from experiments.finetune.measure import Item

MEGABYTES = 12


def folders():
  return [make.HERE / name for name in render.cards()]


def size(folder):
  return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


@pytest.mark.parametrize("folder", folders(), ids=lambda path: path.name)
def test_a_model_is_small_and_has_its_card(folder):
  assert size(folder) <= MEGABYTES
  assert (folder / "README.md").read_text() == render.cards()[folder.name]


@pytest.mark.parametrize("folder", folders(), ids=lambda path: path.name)
def test_a_model_fills_a_mask(folder):
  run = linformer_jax.load(str(folder))
  (place,) = run.fill("The President of the United <mask>", top=1)
  assert place[0][0] == " States"
  model, variables, tokenizer = run
  assert tokenizer.get_vocab_size() == model.config.vocab_size


def test_a_card_tells_perplexity_and_scores():
  line = {
    "name": "softmax-small",
    "model": "softmax",
    "step": 10,
    "parameters": 1_404_032,
    "sources": {"s": {"train": {"documents": 3, "bytes": 2e6, "sha256": "x"}}},
    "documents": [[30.0, 10]] * 3,
    "cpu": "a", "python": "b", "commit": "c", "jax": "d", "device": "e",
    "host": "f",
  }  # fmt: skip
  assert "scores are not measured" in render.card(line, {})
  records = {
    Item(task, "softmax", render.measure.CHOSEN): {
      "answers": "0110",
      "labels": "0111",
    }
    for task in data.TASKS
  }
  text = render.card(line, records)
  assert "**20.1** (20.1 to 20.1)" in text  # exp(3)
  assert "75.0" in text and "| s | 3 | 2.0 | x |" in text

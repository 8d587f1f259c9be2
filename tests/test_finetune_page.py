"""Fine-tuning at a reduced scale: its texts, runs, scores and page."""

import json
import lzma

import numpy as np
import pytest

from experiments import grid
from experiments import page as page_lib
from experiments.finetune import data, floors, measure, render
from experiments.finetune.measure import Item
from experiments.perplexity import sweep
from linformer_jax import step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Labeled files in which a test text is a training text too."""
  made = tmp_path_factory.mktemp("data")
  splits = {
    "train": [{"text": f"a {i // 2}", "label": i % 2} for i in range(1_100)],
    "test": [{"text": "a 0", "label": 0}, {"text": "b", "label": 1}],
  }
  (made / "mrpc").mkdir()
  for split, rows in splits.items():
    with lzma.open(made / "mrpc" / f"{split}.jsonl.xz", "wt") as file:
      file.writelines(json.dumps(row) + "\n" for row in rows)
  return made


def test_no_text_is_in_two_splits(folder):
  divided = data.divide("mrpc", folder)
  texts = [row["text"] for split in data.SPLITS for row in divided[split]]
  assert len(texts) == len(set(texts))
  assert [row["text"] for row in divided["test"]] == ["b"]
  assert len(divided["train"]) == 300


def test_files_are_read_back_and_renewed_if_they_differ(folder, tmp_path):
  files = data.write("mrpc", folder, tmp_path / "x")
  before = data.digest(files)
  assert data.rows(files["test"]) == [{"text": "b", "label": 1}]
  files["test"].write_text('{"text": "other", "label": 0}\n')
  kept = files["train"].stat().st_mtime_ns
  assert data.write("mrpc", folder, tmp_path / "x") == files
  assert data.digest(files) == before
  assert files["train"].stat().st_mtime_ns == kept


def test_the_most_frequent_label_is_that_of_training():
  rows = [{"text": str(i), "label": int(i < 3)} for i in range(5)]
  assert floors.answers("majority", rows, rows[:2]) == [1, 1]


def test_a_bag_of_words_learns_a_word():
  pytest.importorskip("sklearn")
  rows = [
    {"text": f"w{i} {'good' if i % 3 else 'bad'}", "label": int(i % 3 > 0)}
    for i in range(60)
  ]
  test = [{"text": "bad new"}, {"text": "good new"}]
  assert floors.answers("tfidf", rows, test) == [0, 1]


@pytest.mark.parametrize("model", [*measure.MODELS, measure.UNTRAINED])
def test_a_model_is_fine_tuned_as_it_was_pretrained(
  model, folder, tmp_path, monkeypatch
):
  runs = measure.Runs("none", str(folder), str(tmp_path))
  monkeypatch.setattr(
    measure.Runs, "_pretrained", lambda self, item: tmp_path / "pretrained"
  )
  item = Item("mrpc", model, 1e-3, 1)
  words = runs.words(item)
  flags = [word for word in words if word.startswith("--config")]
  tuned = sweep.config_of(flags)
  started = any(word.startswith("--init_from=") for word in words)
  assert started == (model != measure.UNTRAINED)
  assert tuned.data.sequence_length == measure.N
  assert tuned.train.num_steps == 3 * 300 // measure.BATCH
  assert tuned.task.metric == "f1"
  own = step.model_config(tuned)
  assert own.has_dropout
  before = step.model_config(sweep.config_of(item.point().words(0)))
  assert not before.has_dropout
  for name in ("max_length", "vocab_size", "embed_dim", "position_init"):
    assert getattr(own, name) == getattr(before, name)
  for one, other in zip(own.layers, before.layers, strict=True):
    fields = {**vars(one), "dropout_rate": 0.0}
    assert fields == {**vars(other), "dropout_rate": 0.0}


def test_items_and_folders_are_distinct():
  items = measure.items()
  assert len(items) == len(set(items))
  runs = measure.Runs("none", "none", "runs/none")
  folders = {
    runs.folder(item)
    for item in items
    if item.task in data.TASKS and item.model not in floors.MODELS
  }
  models = len(measure.MODELS) + 1
  tuned = models * len(data.TASKS) * len(measure.SEEDS)
  assert len(folders) == tuned + len(measure.pilots())


def test_scores_are_those_of_the_definitions():
  labels = np.array([1, 1, 1, 0, 0])
  answers = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
  accuracy = render.score("accuracy", answers, labels)
  assert accuracy == pytest.approx([3 / 5, 2 / 5])
  # Precision 2/3, recall 2/3; no answer is 1.
  assert render.score("f1", answers, labels) == pytest.approx([2 / 3, 0])
  counts = np.array([[1, 1, 1, 1, 1], [0, 0, 2, 0, 3]])
  found = render.score("accuracy", answers, labels, counts)
  assert found == pytest.approx(np.array([[3 / 5, 3 / 5], [2 / 5, 3 / 5]]))


def record(right, texts=400):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, texts)
  answers = np.where(np.arange(texts) < right * texts, labels, 1 - labels)
  return {
    "answers": "".join(map(str, answers)),
    "labels": "".join(map(str, labels)),
  }


def test_a_difference_is_that_of_the_means_over_seeds():
  records = {}
  for seed, right in enumerate((0.8, 0.7)):
    records[Item("sst2", "none", measure.CHOSEN, seed)] = record(right)
    records[Item("sst2", "softmax", measure.CHOSEN, seed)] = record(0.9)
  value, low, high = render.difference(records, "sst2", "none")
  assert value == pytest.approx(-0.15)
  assert low < value < high < 0
  assert render.difference(records, "sst2", "softmax") == (0, 0, 0)
  assert render.difference(records, "sst2", "half") is None


def test_the_paper_stands_beside_the_same_model():
  """Table 2: 92.4 and 93.4 on SST-2, 93.1 of RoBERTa; QQP 90.5, 90.9."""
  assert render.theirs("headwise", "SST-2") == pytest.approx(-0.7)
  assert render.theirs("key_value", "SST-2") == pytest.approx(0.3)
  assert render.theirs("half", "QQP") == pytest.approx(-0.4)
  assert render.theirs("mixed", "QQP") is None


def test_the_page_is_rendered_from_the_committed_results():
  page = render.PAGE.read_text()
  parts = render.parts(grid.records(measure.RESULTS, Item))
  assert page_lib.renew(page, parts) == page
  for begin in parts:
    assert begin in page

"""Labeled texts: read, split, joined, cut and padded; trained under a mask."""

import json
import types

import jax
import numpy as np
import pytest

from linformer_jax import step
from linformer_jax.data import pipeline
from linformer_jax.data.text import special
from linformer_jax.parallel import sharding
from linformer_jax.run import metrics
from linformer_jax.tasks import classification
from tests import labeled, runs, tiny

DATA = pipeline.Dataset((), ())
FLAGS = (
  "--config=configs/classification.py",
  "--config.model.vocab_size=300",
  "--config.model.max_length=24",
  "--config.attention.projected_length=8",
  "--config.model.num_layers=1",
  "--config.model.embed_dim=32",
  "--config.model.position_dims=8",
  "--config.model.num_heads=2",
  "--config.model.mlp_dim=32",
  "--config.train.batch_size=16",
  "--config.optimizer.warmup_steps=2",
  "--config.task.num_classes=3",
  "--config.data.files={tmp}/train.jsonl",
  "--workdir={tmp}/run",
)


def config_of(path, length=16, **fields):
  config = tiny.get_config()
  with config.unlocked():
    config.task = {
      "name": "classification",
      "num_classes": 3,
      "metric": "accuracy",
    }
  config.model.max_length = length
  config.data.source, config.data.files = "labeled", str(path)
  config.update_from_flattened_dict(fields)
  return config


def open_data(config, known=None):
  data = pipeline.DataConfig(**config.data.to_dict())
  return pipeline.prepare(data, known)


def texts_of(data, rows):
  return [data.tokenizer.decode(rows[i]["text"]) for i in range(len(rows))]


def test_every_row_is_in_one_split_with_its_label(tmp_path):
  path = labeled.write(tmp_path / "a.jsonl")
  data = open_data(config_of(path, **{"data.holdout_fraction": 0.2}))
  assert data.labels == labeled.LABELS
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  labels = {line["text"]: line["label"] for line in lines}
  train, held = texts_of(data, data.train), texts_of(data, data.validation)
  assert sorted(train + held) == sorted(line["text"] for line in lines)
  assert not set(train) & set(held)  # copies are on one side
  assert 0.1 < len(held) / len(lines) < 0.35
  for rows, texts in ((data.train, train), (data.validation, held)):
    for i, text in enumerate(texts):
      assert data.labels[rows[i]["label"]] == labels[text]
      assert not len(rows[i]["pair"])


def test_validation_files_are_the_split(tmp_path):
  path = labeled.write(tmp_path / "a.jsonl", 50)
  other = labeled.write(tmp_path / "b.jsonl", 20, seed=1)
  fields = {"data.validation_files": str(other)}
  data = open_data(config_of(path, **fields))
  assert (len(data.train), len(data.validation)) == (50, 20)
  again = open_data(config_of(path, **fields), data.record)
  np.testing.assert_array_equal(again.train.labels, data.train.labels)
  path.unlink()  # the tokens do
  assert len(open_data(config_of(path, **fields), data.record).train) == 50


def test_a_file_that_is_held_out_is_not_trained_on(tmp_path):
  path = labeled.write(tmp_path / "a.jsonl", 50)
  other = labeled.write(tmp_path / "b.jsonl", 20, seed=1)
  (tmp_path / "copy.jsonl").write_bytes(other.read_bytes())
  fields = {"data.validation_files": str(other)}
  data = open_data(config_of(tmp_path / "*.jsonl", **fields))
  assert (len(data.train), len(data.validation)) == (50, 20)
  path.unlink()
  with pytest.raises(ValueError, match="nothing is left to train on"):
    open_data(config_of(tmp_path / "*.jsonl", **fields))


@pytest.mark.parametrize(
  "sizes, kept",
  [
    ((3, 4), (3, 4)),
    ((30, 4), (8, 4)),
    ((4, 30), (4, 8)),
    ((30, 30), (6, 6)),
    ((14, 0), (14, 0)),
    ((15, 0), (14, 0)),
    ((1, 0), (1, 0)),
  ],
)
def test_texts_are_joined_cut_and_padded(tmp_path, sizes, kept):
  task = step.task_of(config_of(tmp_path))  # N = 16
  text, pair = np.arange(5, 5 + sizes[0]), np.arange(100, 100 + sizes[1])
  row = task.example({"text": text, "pair": pair, "label": 2}, None, DATA)
  want = [0, *text[: kept[0]], 2]  # <s> text </s>
  if sizes[1]:
    want += [2, *pair[: kept[1]], 2]
  np.testing.assert_array_equal(row["tokens"][row["mask"]], want)
  assert (row["tokens"][~row["mask"]] == special.TRAINED.pad).all()
  assert (row["label"], row["weight"]) == (2, 1)


def test_segments_mark_the_pair(tmp_path):
  task = step.task_of(config_of(tmp_path, **{"model.num_segments": 2}))
  assert task.spec(masked=True)["segments"].shape == (16,)
  record = {"text": np.arange(5, 8), "pair": np.arange(9, 11), "label": 0}
  row = task.example(record, None, DATA)  # <s> 5 6 7 </s> </s> 9 10 </s>
  assert row["segments"].tolist() == [0] * 6 + [1] * 3 + [0] * 7
  alone = task.example(record | {"pair": np.zeros(0, int)}, None, DATA)
  assert not alone["segments"].any() and not task.filler()["segments"].any()


def test_padding_is_masked_in_training_as_in_evaluation(tmp_path):
  """The same sums whatever lies under the mask, in both programs."""
  path = labeled.write(tmp_path / "a.jsonl")
  config = config_of(path, **runs.QUICK)
  steps = step.build_steps(
    config, sharding.make_mesh(config.mesh, jax.devices()[:1])
  )
  assert "mask" in steps.abstract_batch
  batch = next(pipeline.train_iterator(open_data(config), steps.task, 0, 8))
  assert not batch["mask"].all()
  other = dict(batch, tokens=np.where(batch["mask"], batch["tokens"], 77))
  found = []
  for rows in (batch, other):
    sums = jax.device_get(steps.evaluate(steps.init(), rows))
    state, values = steps.train(steps.init(), rows)
    for name in sums:
      np.testing.assert_allclose(values[name], sums[name], rtol=1e-5)
    found.append(jax.device_get((state, values)))
  runs.assert_same_bits(*found)


@pytest.mark.slow
def test_a_run_learns_more_than_the_majority(command, tmp_path):
  labeled.write(tmp_path / "train.jsonl", 600, pair=True)
  more = ("--config.train.num_steps=200", "--config.run.eval_every_steps=0")
  status, out, err = command(*FLAGS, *more)
  assert status == 0, err
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["accuracy"] > 0.8 > 0.6 > result["majority_accuracy"] > 0.2, (
    result["accuracy"]
  )
  assert f"majority accuracy {result['majority_accuracy']:.1%}" in out
  rows = metrics.read_json_lines(tmp_path / "run")
  assert any("train/accuracy" in row for row in rows)
  status, out, _ = command("evaluate", "--workdir={tmp}/run")
  assert status == 0
  assert f"validation accuracy {result['accuracy']:.1%}" in out


@pytest.mark.parametrize(
  "lines, message",
  [
    ('{"text": "a"}', ":1: label None is neither an integer nor a string"),
    ('{"text": "a", "label": 1.5}', "some labels are numbers, such as 1.5"),
    ('{"label": 1}', ":1: no text in field 'text'; there is 'label'"),
    ('{"text": "a", "text_pair": 3, "label": 1}', "'text_pair', which is a n"),
    ('{"text": "a", "label": 1}\n{"text": "b"', ":2: not JSON"),
    ('{"text": "a", "label": 1}\n{"text": "b", "label": "x"}', "some labels"),
    ("", "no row for training"),
  ],
)
def test_what_is_no_labeled_text_is_one_line(command, tmp_path, lines, message):
  (tmp_path / "train.jsonl").write_text(lines)
  labeled.write(tmp_path / "validation.jsonl", 30)
  held = "--config.data.validation_files={tmp}/validation.jsonl"
  status, _, err = command(*FLAGS, held)
  line = err.strip().splitlines()[-1]
  assert status == 2 and message in line and "Traceback" not in err
  assert not (tmp_path / "run").exists()


def test_labels_that_do_not_fit_are_one_line(command, tmp_path):
  labeled.write(tmp_path / "train.jsonl")
  status, _, err = command(*FLAGS, "--config.task.num_classes=2")
  assert status == 2 and "3 labels, and task.num_classes is 2" in err


@pytest.mark.parametrize("seed", range(3))
def test_f1_and_matthews_are_those_of_the_answers(seed):
  """Against precision and recall, and the correlation of two 0-1 vectors."""
  rng = np.random.default_rng(seed)
  size, weight = 40, np.array([1.0] * 37 + [0.0] * 3, np.float32)
  label = rng.integers(0, 2, size)
  logits = rng.normal(size=(size, 2)) + 0.5 * np.eye(2)[label]
  task = classification.Config(2, "f1").build(tiny_model(), 16)

  class Fixed(classification.Classification):
    def logits(self, *args, **kwargs):
      return jax.numpy.asarray(logits, np.float32)

  task = Fixed(task.config, task.model, task.length)
  batch = {"label": label.astype(np.int32), "weight": weight}
  found = task.metrics(task.sums({}, batch))
  answer, real = logits.argmax(1)[:37], label[:37]
  precision = real[answer == 1].mean()
  recall = answer[real == 1].mean()
  assert found["f1"] == pytest.approx(
    2 / (1 / precision + 1 / recall), rel=1e-6
  )
  correlation = np.corrcoef(answer, real)[0, 1]
  assert found["matthews"] == pytest.approx(correlation, rel=1e-5)
  assert found["accuracy"] == pytest.approx((answer == real).mean())


def test_a_constant_answer_has_the_score_of_the_floor():
  labels = np.array([0, 1, 1, 0, 1])
  rows = types.SimpleNamespace(labels=labels, separate=False)
  data = types.SimpleNamespace(labels=(0, 1), train=rows, validation=rows)
  sums = {"loss": 1.0, "weight": 5, "correct": 3, "answered": 5, "labeled": 3}
  for metric in ("accuracy", "f1", "matthews"):
    task = classification.Config(2, metric).build(tiny_model(), 16)
    assert task.headline == metric
    got = task.metrics(sums | {"hits": 3})[metric]
    assert got == pytest.approx(task.floor(data, ()))


def tiny_model():
  return step.model_config(tiny.get_config())


def test_metrics_of_two_classes_are_refused_with_three():
  with pytest.raises(ValueError, match="two classes, not task.num_classes 3"):
    classification.Config(3, "f1")
  with pytest.raises(ValueError, match="'auc' is not one of accuracy, f1"):
    classification.Config(2, "auc")

"""Regression: exact moments, numbers as they are, and a run that learns."""

import json

import jax
import numpy as np
import pytest

from linformer_jax import step
from linformer_jax.tasks import regression
from tests import labeled, tiny


def task_of(length=16):
  return regression.Config().build(step.model_config(tiny.get_config()), length)


@pytest.mark.parametrize("parts", [1, 3])
def test_pearson_and_error_are_those_of_the_answers(parts):
  """Sums are additive over parts of a split."""
  rng = np.random.default_rng(parts)
  label = rng.normal(3, 1, 30).astype(np.float32)
  answer = (0.5 * label + rng.normal(size=30)).astype(np.float32)
  weight = np.float32(np.arange(30) < 28)

  class Fixed(regression.Regression):
    def logits(self, variables, batch, key, **arguments):
      return batch["answer"][:, None]

  made = task_of()
  task = Fixed(made.config, made.model, made.length)
  total = {}
  for rows in np.array_split(np.arange(30), parts):
    batch = {"label": label[rows], "weight": weight[rows]}
    sums = task.sums({}, batch | {"answer": jax.numpy.asarray(answer[rows])})
    total = {k: total.get(k, 0) + float(x) for k, x in sums.items()}
  found = task.metrics(total)
  real, given = label[:28], answer[:28]
  assert found["loss"] == pytest.approx(np.mean((real - given) ** 2), rel=1e-5)
  want = np.corrcoef(real, given)[0, 1]
  assert found["pearson"] == pytest.approx(want, rel=1e-4)


def test_a_constant_answer_has_the_score_of_the_floor():
  sums = {"loss": 1.0, "weight": 4.0, "answers": 8.0, "answers_squared": 16.0}
  sums |= {"labels": 6.0, "labels_squared": 11.0, "products": 12.0}
  assert task_of().metrics(sums)["pearson"] == 0


WORDS = {"dog": 1, "oak": 2, "flint": 5}
TRAIN = (
  "train",
  "--config=tests/tiny_regression.py",
  "--config.data.files={tmp}/train.jsonl",
  "--workdir={tmp}/r",
)


def write(path, of):
  """Texts of `labeled`, whose word tells a number."""
  rows = [
    json.loads(line)
    for line in labeled.write(path, rows=400).read_text().splitlines()
  ]
  number = dict(zip(labeled.LABELS, (1, 2, 5), strict=True))
  for row in rows:
    row["label"] = of(number[row["label"]])
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
@pytest.mark.parametrize("of", [float, int])
def test_a_run_learns_the_numbers_of_words(run, tmp_path, of):
  """Floats, and integers, which the data take for classes 0, 1 and 2."""
  write(tmp_path / "train.jsonl", of)
  status, out, err = run(*TRAIN)
  assert status == 0, err
  assert "against the constant pearson 0.000" in out
  result = json.loads((tmp_path / "r" / "result.json").read_text())
  assert result["pearson"] > 0.95
  assert result["loss"] < 0.5  # The variance of the numbers is 2.9.
  if of is float:
    return
  (tmp_path / "texts.jsonl").write_text('{"text": "one flint two"}\n')
  status, _, err = run(
    "predict",
    "--workdir={tmp}/r",
    "--input={tmp}/texts.jsonl",
    "--to={tmp}/out.jsonl",
  )
  assert status == 0, err
  value = json.loads((tmp_path / "out.jsonl").read_text())["value"]
  assert value == pytest.approx(5, abs=1)


def test_names_are_no_numbers(run, tmp_path):
  labeled.write(tmp_path / "train.jsonl")
  status, _, err = run(*TRAIN)
  assert status == 2 and "the labels are names, such as 'animal'" in err
  assert not (tmp_path / "r").exists()

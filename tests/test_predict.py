"""Texts are labeled as the model labels each by itself, and calls resume."""

import csv
import json

import jax
import numpy as np
import pytest

from linformer_jax import loading
from linformer_jax.data.text import tokenizer as tokenizer_lib
from tests import labeled

TUNE = (
  "train",
  "--config=tests/tiny_finetune.py",
  "--config.data.files={tmp}/train.jsonl",
  "--config.train.num_steps=3",
  "--workdir={tmp}/c",
)
PREDICT = ("predict", "--workdir={tmp}/c", "--input={tmp}/texts.jsonl")


@pytest.fixture
def trained(run, tmp_path):
  """A classifier in tmp/c, and 70 texts, of which some have a pair."""
  labeled.write(tmp_path / "train.jsonl", pair=True)
  status, _, err = run(*TUNE)
  assert status == 0, err
  rows = labeled.write(tmp_path / "some.jsonl", rows=70, seed=1, pair=True)
  rows = [json.loads(line) for line in rows.read_text().splitlines()]
  for row in rows[::3]:
    del row["text_pair"]
  rows[5]["text"] = "one two three four " * 40  # longer than the model takes
  write(tmp_path / "texts.jsonl", rows)
  return rows


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def alone(run, row):
  """Probabilities of one text at full length, by the documented format."""
  encode = lambda text: tokenizer_lib.encode(run.tokenizer, [text])[0].tolist()  # noqa: E731
  n = run.model.config.max_length
  text, pair = encode(row["text"]), encode(row.get("text_pair", ""))
  if pair:
    tokens = [0, *text[: n - 4 - len(pair)], 2, 2, *pair, 2]
  else:
    tokens = [0, *text[: n - 2], 2]
  padded = np.full((1, n), 1, np.int32)
  padded[0, : len(tokens)] = tokens
  mask = np.arange(n)[None] < len(tokens)
  return jax.nn.softmax(run.model.apply(run.variables, padded, mask))[0]


def test_a_batch_is_labeled_as_its_texts_one_by_one(run, tmp_path, trained):
  status, out, err = run(*PREDICT, "--to={tmp}/out.jsonl")
  assert status == 0, err
  assert "70 rows labeled" in out and "1 of them were longer" in out
  model = loading.load(str(tmp_path / "c"))
  assert model.labels == labeled.LABELS
  lines = (tmp_path / "out.jsonl").read_text().splitlines()
  assert len(lines) == 70
  for i in (*range(0, 70, 13), 5, 69):
    row, line = trained[i], json.loads(lines[i])
    want = alone(model, row)
    got = [line["probabilities"][label] for label in labeled.LABELS]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    assert line["label"] == labeled.LABELS[int(np.argmax(want))]


def test_a_stopped_call_goes_on_and_formats_do_not_matter(
  run, tmp_path, trained
):
  to = "--to={tmp}/out.jsonl"
  assert run(*PREDICT, to)[0] == 0
  whole = (tmp_path / "out.jsonl").read_bytes()
  for cut in (0, 200, len(whole) // 2, len(whole)):
    (tmp_path / "out.jsonl").write_bytes(whole[:cut])
    status, out, err = run(*PREDICT, to)
    assert status == 0, err
    assert (tmp_path / "out.jsonl").read_bytes() == whole
  assert "0 rows labeled" in out and "70 were there" in out
  # CSV and an export give the same.
  with (tmp_path / "texts.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["text", "text_pair"])
    writer.writerows([r["text"], r.get("text_pair", "")] for r in trained)
  assert run("export", "--workdir={tmp}/c", "--to={tmp}/small")[0] == 0
  status, _, err = run(
    "predict",
    "--workdir={tmp}/small",
    "--input={tmp}/texts.csv",
    "--to={tmp}/other.jsonl",
  )
  assert status == 0, err
  same = [(tmp_path / f"{x}.jsonl").read_text() for x in ("out", "other")]
  assert same[0] == same[1]


def test_bad_input_is_one_line(run, tmp_path, trained):
  to = "--to={tmp}/new.jsonl"
  write(tmp_path / "empty.jsonl", [{"text": "one"}, {"text": " "}])
  write(tmp_path / "other.jsonl", [{"sentence": "one"}])
  (tmp_path / "long.jsonl").write_text("{}\n" * 99)
  for words, message in (
    (("predict", "--workdir={tmp}/c", to), "--input=TEXTS.jsonl and --to="),
    ((*PREDICT[:2], "--input={tmp}/none.jsonl", to), "none.jsonl"),
    (
      (*PREDICT[:2], "--input={tmp}/other.jsonl", to),
      "no text in field 'text'",
    ),
    ((*PREDICT[:2], "--input={tmp}/empty.jsonl", to), ":2: text is empty"),
    ((*PREDICT, "--to={tmp}/long.jsonl"), "99 lines"),
    (("predict", "--workdir={tmp}/run", PREDICT[2], to), "does not classify"),
  ):
    status, _, err = run(*words)
    assert status == 2 and message in err, err
    assert len(err.strip().splitlines()) == 1

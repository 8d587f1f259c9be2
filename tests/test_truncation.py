"""Texts that are too long are counted, told, and refused where asked."""

import json
import types

import numpy as np
import pytest

from linformer_jax import predict
from linformer_jax.data import pipeline
from tests import labeled, runs, test_data_config

LONG = " ".join(["one two three four"] * 60)
TRAIN = (
  "train",
  "--config=tests/tiny_finetune.py",
  *runs.QUICK_FLAGS,
  "--config.data.files={tmp}/train.jsonl",
  "--config.data.validation_files={tmp}/held.jsonl",
  "--config.train.num_steps=3",
  "--workdir={tmp}/run",
)


def save(tmp_path, train=(4, 9), held=(2,), pair=True):
  """Files of 60 and 20 rows of which some, by index, are too long."""
  for name, rows, places in (("train", 60, train), ("held", 20, held)):
    path = labeled.write(tmp_path / f"{name}.jsonl", rows, pair=pair)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for i in places:
      found[i]["text_pair" if pair and i % 2 else "text"] = LONG
    labeled.save(path, found)


def prepared(tmp_path, **changes):
  return pipeline.prepare(
    test_data_config.config(
      tmp_path / "cache",
      source="labeled",
      files=str(tmp_path / "train.jsonl"),
      validation_files=str(tmp_path / "held.jsonl"),
      **changes,
    )
  )


@pytest.mark.parametrize("length", [16, 24, 32])
def test_what_is_counted_is_what_loses_tokens(tmp_path, length):
  """Against the rows that the task makes, for a range of lengths."""
  save(tmp_path)
  data = prepared(tmp_path, sequence_length=length)
  special = data.special
  for rows, name in ((data.train, "train"), (data.validation, "validation")):
    lost = []
    for i in range(len(rows)):
      text, pair = len(rows[i]["text"]), len(rows[i]["pair"])
      lost.append(2 + text + pair + 2 * bool(pair) > length)
    np.testing.assert_array_equal(rows.too_long(special), lost)
    assert data.facts[f"{name}_truncated"] == sum(lost) > 0
  assert data.facts["train_pairs"] == 60


def test_a_run_tells_and_records_it(command, tmp_path):
  save(tmp_path)
  status, out, err = command(*TRAIN)
  assert status == 0, err
  line = (
    "2 of 60 training and 1 of 20 validation texts are longer than "
    "data.sequence_length 32 and are truncated"
  )
  assert line in out.splitlines()
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert (result["train_truncated"], result["validation_truncated"]) == (2, 1)
  # A pair is wanted of a file to label, as the model was trained on pairs.
  (tmp_path / "alone.jsonl").write_text('{"text": "one"}\n' * 3)
  (tmp_path / "alone.csv").write_text("text\none\n")
  words = ("predict", "--workdir={tmp}/run", "--to={tmp}/x.jsonl")
  for name in ("alone.jsonl", "alone.csv"):
    status, _, err = command(*words, f"--input={{tmp}}/{name}")
    assert status == 2 and "no row has a text in field 'text_pair'" in err, err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x.jsonl").exists()
  # Long texts are counted, or refused.
  status, out, _ = command(*words, "--input={tmp}/train.jsonl")
  assert status == 0 and "2 of them were longer" in out
  words = (*words[:2], "--to={tmp}/y.jsonl", "--input={tmp}/train.jsonl")
  status, _, err = command(*words, "--truncate=false")
  assert status == 2 and "train.jsonl:5: " in err and "--truncate" in err
  assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
  "train, held, place",
  [((9, 4), (2,), "train.jsonl:5"), ((), (7, 3), "held.jsonl:4")],
)
def test_it_is_refused_with_the_place(command, tmp_path, train, held, place):
  save(tmp_path, train, held)
  status, _, err = command(*TRAIN, "--config.data.truncate=False")
  (line,) = (x for x in err.splitlines() if "INFO" not in x)
  assert status == 2 and f"{place}: " in line and "data.truncate" in line
  assert "data.sequence_length 32" in line
  assert not (tmp_path / "run").exists()


def test_rows_that_fit_are_taken(tmp_path):
  save(tmp_path, (), ())
  data = prepared(tmp_path, truncate=False, sequence_length=64)
  assert data.remark == "" and not data.facts["train_truncated"]


def test_other_sources_cut_blocks(tmp_path):
  with pytest.raises(ValueError, match="data.truncate.*'labeled'"):
    test_data_config.config(tmp_path, truncate=False)


def test_a_named_pair_is_wanted_of_each_row(tmp_path):
  rows = ['{"text": "one", "text_pair": "two"}', '{"text": "one"}']
  path = tmp_path / "some.jsonl"
  path.write_text("\n".join(rows))
  data = types.SimpleNamespace(text_feature="text", pair_feature="text_pair")
  config = types.SimpleNamespace(data=data)
  fields = predict.fields_of(types.SimpleNamespace(config=config), {})
  with pytest.raises(ValueError, match=r":2: no text in field 'text_pair'"):
    list(predict.texts(str(path), fields))
  data.pair_feature = ""
  fields = predict.fields_of(types.SimpleNamespace(config=config), {})
  pairs = [row.pair for row in predict.texts(str(path), fields)]
  assert pairs == ["two", ""]
  (tmp_path / "some.csv").write_text("text\none\n")
  fields = predict.Fields(pair="other", each=True)
  with pytest.raises(ValueError, match="some.csv.*'other'"):
    list(predict.texts(str(tmp_path / "some.csv"), fields))

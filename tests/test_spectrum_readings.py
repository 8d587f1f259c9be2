"""Readings of spectra: text to blocks, stops, errors, what is committed."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments import page as page_lib
from experiments.spectrum import blocks, measure, render
from linformer_jax.run import checkpoint
from tests import bert, runs

WORDS = "[PAD] [UNK] [CLS] [SEP] the a cat dog sat ran on mat ##s . ,".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Tiny weights with their vocabulary and some text."""
  folder = tmp_path_factory.mktemp("weights")
  safetensors.numpy.save_file(bert.tensors(), folder / "model.safetensors")
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  rng = np.random.default_rng(0)
  text = " ".join(rng.choice(["The cats", "a dog", "sat", "on ."], 900))
  with (folder / "text.jsonl").open("w") as file:
    for part in (text, "", "The dog ran."):
      file.write(json.dumps({"text": part}) + "\n")
  return folder


def words(folder, results, *more):
  return [
    f"--weights={folder}/model.safetensors",
    f"--vocab={folder}/vocab.txt",
    f"--text={folder}/text.jsonl",
    f"--results={results}",
    "--heads=2",
    "--blocks=5",
    *more,
  ]


def test_a_stopped_reading_goes_on_to_the_same_numbers(folder, tmp_path):
  whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
  board = f"--tensorboard={tmp_path}/board"
  assert measure.main(words(folder, whole, board)) == 0
  statuses = [
    measure.main(words(folder, parts, "--budget=0")) for _ in range(5)
  ]
  assert statuses == 4 * [measure.UNFINISHED] + [0]
  [one], [other] = measure.records(whole), measure.records(parts)
  del one["seconds"], other["seconds"]
  assert one == other
  assert one["blocks"] == 5 and one["length"] == bert.N
  assert list((tmp_path / "board").glob("events.*"))
  assert measure.main(words(folder, parts)) == 0  # is there already
  assert len(parts.read_text().splitlines()) == 1
  more = tmp_path / "more.jsonl"
  assert measure.main(words(folder, more, "--blocks=3")) == 0
  assert measure.main(words(folder, more, "--budget=0")) == measure.UNFINISHED
  assert measure.main(words(folder, more)) == 0
  [other] = measure.records(more)
  del other["seconds"]
  assert one == other
  assert measure.main(words(folder, more, "--blocks=3")) == 2  # fewer again


BAD = {
  "weights": (["--weights={}/none.safetensors"], "none.safetensors"),
  "vocabulary": (["--vocab={}/none.txt"], "none.txt"),
  "not a vocabulary": (["--vocab={}/text.jsonl"], "no token [CLS]"),
  "text": (["--text={}/none*"], "no file matches"),
  "no text": (["--text={}/empty.txt"], "0 characters"),
  "positions": (["--length=13"], "12 positions"),
  "heads": (["--heads=3"], "num_heads 3"),
  "blocks": (["--blocks=0"], "--blocks=0"),
  "too little": (["--blocks=500"], "500 blocks of 12"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_measured_is_one_line(case, folder, tmp_path, capsys):
  more, message = BAD[case]
  (folder / "empty.txt").write_text(" \n")
  results = tmp_path / "x.jsonl"
  more = [word.format(folder) for word in more]
  assert measure.main(words(folder, results, *more)) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not results.exists()


def test_blocks_are_whole_and_spread(folder):
  tokenizer = blocks.wordpiece(folder / "vocab.txt")
  cls, sep = WORDS.index("[CLS]"), WORDS.index("[SEP]")
  texts = ["the mat . " * 40, "a cat sat " * 40]
  found = blocks.spread(texts, tokenizer, 12, 4)
  assert found.shape == (4, 12)
  assert (found[:, 0] == cls).all() and (found[:, -1] == sep).all()
  # At 0, 0.62, 0.24 and 0.85 of all: two in each text, none of them unknown.
  assert [WORDS[i] for i in found[0, 1:4]] == ["the", "mat", "."]
  assert set(found[2, 1:-1]) == {WORDS.index(w) for w in ("the", "mat", ".")}
  for block in found[1], found[3]:
    assert set(block[1:-1]) == {WORDS.index(w) for w in ("a", "cat", "sat")}
  more = blocks.spread(texts, tokenizer, 12, 3)
  np.testing.assert_array_equal(more, found[:3])
  capitals = blocks.spread(["THE CATS " * 40], tokenizer, 12, 1)
  assert [WORDS[i] for i in capitals[0, 1:4]] == ["the", "cat", "##s"]


def test_a_block_goes_on_into_the_next_document(folder):
  tokenizer = blocks.wordpiece(folder / "vocab.txt")
  [found] = blocks.spread(["the cat", "sat . " * 9], tokenizer, 10, 1)
  names = [WORDS[i] for i in found]
  assert names[:5] == ["[CLS]", "the", "cat", "[SEP]", "sat"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run with softmax attention, as if saved after two and four updates."""
  folder = tmp_path_factory.mktemp("runs") / "tiny"
  folder.mkdir()
  experiment = runs.experiment("softmax")
  config = json.dumps(experiment.config.to_dict())
  (folder / "config.json").write_text(config)
  with checkpoint.Checkpoints(folder, 2) as saved:
    state = experiment.steps.init()
    for step, scale in ((2, 5), (4, 25)):
      params = jax.tree.map(lambda x, scale=scale: scale * x, state.params)
      saved.save(step, state.replace(params=params), {})
  return folder


@pytest.mark.slow
def test_a_run_is_read_at_its_start_and_its_checkpoints(run, tmp_path, capsys):
  results = tmp_path / "run.jsonl"
  line = [f"--workdir={run}", f"--results={results}", "--blocks=3"]
  assert measure.main([*line, "--steps=4"]) == 0
  assert measure.main(line) == 0
  found = measure.records(results)
  assert [record["step"] for record in found] == [4, 0, 2]
  assert len({record["weights_sha256"] for record in found}) == 3
  assert len({record["tokens_sha256"] for record in found}) == 1
  tables = render.run_tables(found)
  assert "| 0 |" in tables and "tiny: softmax attention" in tables
  # At the start attention is nearly uniform, which has rank one.
  last, start, middle = (
    record["at_quarter"]["all"]["mean"] for record in found
  )
  assert max(last, middle) < 0.9 < start
  assert measure.main([*line, "--steps=3"]) == 2
  assert "no checkpoint 3" in capsys.readouterr().err
  assert measure.main([f"--workdir={run}/none", *line[1:]]) == 2


@pytest.fixture(scope="module")
def committed():
  return measure.records()


def test_the_page_is_rendered_from_the_committed_results(committed):
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.sections(committed)) == page
  for name in render.figures(committed):
    path = measure.RESULTS.with_name(name)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"results/{name}" in page


def test_minilm_agrees_with_another_reading(committed):
  """On film reviews, within the spread over blocks and the other's rounding."""
  [found] = [r for r in render.imported(committed) if r["text"] == "IMDB"]
  assert (found["length"], found["quarter"]) == (512, 128)
  at = found["at_quarter"]
  spread = at["all"]["spread"]
  # By other code on other text, printed to two digits.
  assert abs(at["all"]["mean"] - 0.83) < spread + 0.005
  others = (0.81, 0.69, 0.76, 0.86, 0.87, 0.97)
  layers = at["layers"]["mean"], at["layers"]["spread"], others
  for mean, spread, other in zip(*layers, strict=True):
    assert abs(mean - other) < spread + 0.005


def test_committed_curves_are_spectra(committed):
  """They rise to one, ever more slowly; means of heads are those of all."""
  for record in committed:
    indices = np.array([0, *record["indices"]])
    curves = np.array(record["heads_mean"])
    rounding = 1e-5
    assert (curves[..., -1] == 1).all()
    slopes = np.diff(curves, axis=-1, prepend=0) / np.diff(indices)
    assert (slopes >= 0).all() and (np.diff(slopes) < rounding).all()
    mean = curves.mean((0, 1))
    np.testing.assert_allclose(mean, record["mean"], rtol=0, atol=rounding)
    place = record["indices"].index(record["quarter"])
    heads = record["at_quarter"]["heads"]["mean"]
    np.testing.assert_array_equal(curves[..., place], heads)

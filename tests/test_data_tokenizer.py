"""The tokenizer: lossless, deterministic, and checked when loaded."""

import base64
import json
import logging
import random
import struct

import numpy as np
import pytest
import tokenizers

from linformer_jax.data.text import special
from linformer_jax.data.text import tokenizer as tokenizer_lib

TEXTS = ["the cat sat on the mat, the cat sat", "a cat and a mat"] * 20


@pytest.fixture(scope="module")
def trained():
  return tokenizer_lib.train(iter(TEXTS), 270)


def test_special_ids_are_robertas(trained):
  ids = [trained.token_to_id(t) for t in ("<s>", "<pad>", "</s>", "<unk>")]
  assert ids == [0, 1, 2, 3]
  assert special.of(trained) == special.TRAINED
  assert tokenizer_lib.special_ids(trained) == [0, 1, 2, 3, 4]
  assert tokenizer_lib.size(trained) == 270


@pytest.mark.parametrize(
  "text", ["the cat", "  spaces\n\nand\ttabs ", "naïve ☃ 語 \x00", ""]
)
def test_decoding_returns_the_text(trained, text):
  (ids,) = tokenizer_lib.encode(trained, [text])
  assert trained.decode(ids, skip_special_tokens=False) == text


def test_spelled_out_special_tokens_are_text(trained):
  text = "a <mask> and </s><pad>"
  (ids,) = tokenizer_lib.encode(trained, [text])
  assert not set(ids) & set(tokenizer_lib.special_ids(trained))
  assert trained.decode(ids) == text


def test_training_is_deterministic(trained):
  assert tokenizer_lib.train(iter(TEXTS), 270).to_str() == trained.to_str()


def test_a_small_corpus_is_reported(caplog):
  with caplog.at_level(logging.WARNING, logger="linformer_jax"):
    tokenizer = tokenizer_lib.train(["ab ab"], 1000)
  assert tokenizer_lib.size(tokenizer) < 1000
  assert f"{tokenizer_lib.size(tokenizer)}, less than the 1000" in caplog.text


def test_too_small_a_vocabulary():
  with pytest.raises(ValueError, match="260.*261"):
    tokenizer_lib.train(TEXTS, 260)


def test_load_round_trip(trained, tmp_path):
  path = tmp_path / "tokenizer.json"
  trained.enable_truncation(3)
  trained.save(str(path))
  trained.no_truncation()
  loaded = tokenizer_lib.load(path, 270)
  texts = ["the cat sat on the mat <mask>"]
  (ids,), (expected,) = (
    tokenizer_lib.encode(tokenizer, texts) for tokenizer in (loaded, trained)
  )
  assert ids.tolist() == expected.tolist()
  assert tokenizer_lib.size(tokenizer_lib.load(path, 1000)) == 270


def test_mask_may_come_last_as_in_roberta(tmp_path):
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
  tokenizer.add_tokens(["x", "y"])
  tokenizer.add_special_tokens(["<mask>", "<extra>"])
  path = tmp_path / "tokenizer.json"
  tokenizer.save(str(path))
  loaded = tokenizer_lib.load(path, 300)
  assert special.of(loaded).mask == 6
  assert tokenizer_lib.special_ids(loaded) == [0, 1, 2, 3, 6, 7]


def test_load_errors(trained, tmp_path):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(ValueError, match="tokenizer.json.*No such file"):
    tokenizer_lib.load(path, 300)
  path.write_text("{")
  with pytest.raises(ValueError, match="not JSON"):
    tokenizer_lib.load(path, 300)
  path.write_text('{"a": 1}')
  with pytest.raises(ValueError, match="not a tokenizer.json"):
    tokenizer_lib.load(path, 300)
  trained.save(str(path))
  with pytest.raises(ValueError, match="270 ids, more than vocab_size 269"):
    tokenizer_lib.load(path, 269)

  bare = tokenizers.Tokenizer(tokenizers.models.BPE())
  bare.save(str(path))
  with pytest.raises(ValueError, match=r"<s> is missing.*\[CLS\] is missing"):
    tokenizer_lib.load(path, 300)
  bare = tokenizers.Tokenizer(tokenizers.models.BPE())
  bare.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
  bare.save(str(path))
  assert json.loads(path.read_text())["added_tokens"]
  with pytest.raises(ValueError, match="<mask> is missing"):
    tokenizer_lib.load(path, 300)


def changed(trained, change):
  fields = json.loads(trained.to_str())
  change(fields)
  return json.dumps(fields)


def charsmap(text):
  return lambda t: t.update(
    normalizer={"type": "Precompiled", "precompiled_charsmap": text}
  )


def wordpiece(fields):
  vocab = dict(fields["model"]["vocab"])
  fields["model"] = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": vocab,
  }


BROKEN = {
  "no merges": lambda t: t["model"].pop("merges"),
  "other version": lambda t: t.update(version="2.0"),
  "null vocabulary": lambda t: t["model"].update(vocab=None),
  "null tokens": lambda t: t.update(added_tokens=None),
  "unknown merge": lambda t: t["model"].update(merges=[["zz", "yy"]]),
  "negative id": lambda t: t["model"]["vocab"].update(x=-1),
  "large id": lambda t: t["model"]["vocab"].update(x=2**33),
  "unknown model": lambda t: t["model"].update(type="Other"),
  "unknown normalizer": lambda t: t.update(normalizer={"type": "Other"}),
  "surrogate": lambda t: t["added_tokens"][0].update(content="\ud800"),
  "dropout": lambda t: t["model"].update(dropout=5.0),
  "no token for unknown": wordpiece,
  "null charsmap": charsmap(None),
  "words for a charsmap": charsmap("words, words"),
  "empty charsmap": charsmap(""),
  "long trie": charsmap(
    base64.b64encode(struct.pack("<I", 99) + b"x" * 9).decode()
  ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_loaded_is_named(trained, kind):
  text = changed(trained, BROKEN[kind])
  with pytest.raises(ValueError, match="^some.json (is|has) ") as caught:
    tokenizer_lib.parse(text, 300, "some.json")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [400, 100_000])
def test_deep_json_is_named(trained, depth):
  deep = "[" * depth + "]" * depth
  with pytest.raises(ValueError, match="some.json is "):
    tokenizer_lib.parse(f'{{"model": {{"x": {deep}}}}}', 300, "some.json")


def test_a_folder_is_no_tokenizer(tmp_path):
  with pytest.raises(ValueError, match="is a folder: name the tokenizer.json"):
    tokenizer_lib.load(tmp_path, 300)


def test_truncation_and_a_byte_order_mark_do_no_harm(trained, tmp_path):
  truncation = {
    "direction": "Right",
    "max_length": 1,
    "strategy": "LongestFirst",
    "stride": 5,
  }
  text = changed(trained, lambda t: t.update(truncation=truncation))
  (tmp_path / "a.json").write_text("\ufeff" + text, encoding="utf-8")
  loaded = tokenizer_lib.load(tmp_path / "a.json", 270)
  (ids,) = tokenizer_lib.encode(loaded, ["the cat sat on the mat"])
  assert loaded.decode(ids) == "the cat sat on the mat"


def long_text(length):
  """Words, runs of white space, digits and signs; and some of each at cuts."""
  rng = random.Random(0)
  kinds = [" ", "  ", "\n", " \n", "\t", "'s ", " 12", "-", "☃", "\x1c", "é "]
  words = ["the", "cat", "mat", "sat", *kinds]
  return "".join(rng.choices(words, k=length))


@pytest.mark.parametrize("piece", [1, 3, 50])
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(
  trained, monkeypatch, piece
):
  monkeypatch.setattr(tokenizer_lib, "_PIECE", piece)
  monkeypatch.setattr(tokenizer_lib, "_AT_ONCE", 500)
  texts = [long_text(3000), "", "a", long_text(100)]
  whole = [trained.encode(text).ids for text in texts]
  assert len(list(tokenizer_lib._pieces(texts[0]))) > 20
  found = tokenizer_lib.encode(trained, texts)
  assert [ids.tolist() for ids in found] == whole


def test_training_in_pieces_is_training_on_the_whole(monkeypatch):
  texts = [long_text(5000)]
  whole = tokenizer_lib.train(texts, 300).to_str()
  monkeypatch.setattr(tokenizer_lib, "_PIECE", 3)
  assert tokenizer_lib.train(texts, 300).to_str() == whole


RUNS = {
  "spaces": " ",
  "lines": "\n",
  "signs": "=",
  "letters": "a",
  "two": "ab",
  "base64": "aB3+dE5/",
  "snow": "☃",
}


@pytest.mark.parametrize("kind", RUNS)
def test_long_runs_are_text_as_any_other(kind):
  """Training takes time with the square of a run, so it learns parts of it."""
  rng = random.Random(0)
  run = "".join(rng.choices(RUNS[kind], k=100_000))
  tokenizer = tokenizer_lib.train([f"x{run}y the cat"], 300)
  (ids,) = tokenizer_lib.encode(tokenizer, [f"x{run}y the cat"])
  assert max(map(len, tokenizer.get_vocab())) <= 256
  assert tokenizer.decode(ids) == f"x{run}y the cat"
  assert ids.dtype == np.uint32


def test_pieces_are_bounded_without_spaces():
  sizes = [len(piece) for piece in tokenizer_lib._pieces("=" * 1_000_000)]
  assert sum(sizes) == 1_000_000 and max(sizes) <= 2**18

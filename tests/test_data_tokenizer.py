"""The tokenizer: lossless, deterministic, and checked when loaded."""

import json
import logging

import pytest
import tokenizers

from linformer_jax.data import tokenizer as tokenizer_lib

TEXTS = ["the cat sat on the mat, the cat sat", "a cat and a mat"] * 20


@pytest.fixture(scope="module")
def trained():
  return tokenizer_lib.train(iter(TEXTS), 270)


def test_special_ids_are_robertas(trained):
  ids = [trained.token_to_id(t) for t in ("<s>", "<pad>", "</s>", "<unk>")]
  assert ids == [0, 1, 2, 3]
  assert tokenizer_lib.mask_id(trained) == 4
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
  assert tokenizer_lib.mask_id(loaded) == 6
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
  with pytest.raises(ValueError, match="<s> must have id 0, and is missing"):
    tokenizer_lib.load(path, 300)
  bare.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
  bare.save(str(path))
  with pytest.raises(ValueError, match="<s> must have id 0, and has 1"):
    tokenizer_lib.load(path, 300)
  bare = tokenizers.Tokenizer(tokenizers.models.BPE())
  bare.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
  bare.save(str(path))
  assert json.loads(path.read_text())["added_tokens"]
  with pytest.raises(ValueError, match="<mask> is missing"):
    tokenizer_lib.load(path, 300)

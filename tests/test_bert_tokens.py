"""Models with BERT's special tokens: rows, fills, fine-tuning and exports.

Rows and outputs are those of the `transformers` library, if it is there.
"""

import json
import pathlib
import types

import numpy as np
import pytest
import tokenizers

from linformer_jax import exported, loading, origin
from linformer_jax.data.text import packing, special, wordpiece
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.models import weights
from linformer_jax.tasks import classification
from tests import bert, labeled

WORDS = "one two three four five six dog cat bird oak fern moss flint ##s ##n"
# Neither RoBERTa's ids nor RoBERTa's order.
VOCABULARY = ["[PAD]", "!", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
VOCABULARY += ["s", "##e"]
TEXTS = ["one dogs", "Two!", "cats one [SEP] five", "☃ three three"] * 2


def saved(folder, lower=True):
  """The path of a vocab.txt."""
  path = folder / wordpiece.VOCABULARY
  path.write_text("\n".join(VOCABULARY) + "\n")
  if not lower:
    settings = json.dumps({"do_lower_case": False})
    (folder / "tokenizer_config.json").write_text(settings)
  return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return tokenizer_lib.load(saved(tmp_path_factory.mktemp("bert")), 30)


def ids_of(*words):
  return [VOCABULARY.index(word) for word in words]


def test_special_tokens_are_found_by_name(tokenizer):
  found = special.of(tokenizer)
  assert found.ids == (3, 0, 4, 2, 5) and found.is_bert
  assert tokenizer_lib.special_ids(tokenizer) == [0, 2, 3, 4, 5]
  other = tokenizers.Tokenizer(tokenizers.models.BPE())
  other.add_tokens(["x"])
  other.add_special_tokens(list(special.ROBERTA))
  assert special.of(other).ids == (1, 2, 3, 4, 5)
  assert not special.of(other).is_bert


def test_a_vocabulary_of_words_is_a_tokenizer(tokenizer, tmp_path):
  """Lowercased, unless the settings beside it say otherwise."""
  (ids,) = tokenizer_lib.encode(tokenizer, ["Two dogs!"])
  assert ids.tolist() == ids_of("two", "dog", "##s", "!")
  (ids,) = tokenizer_lib.encode(tokenizer, ["[SEP]"])
  assert 4 not in ids  # text that spells a special token is text
  cased = tokenizer_lib.load(saved(tmp_path, lower=False), 30)
  assert tokenizer_lib.encode(cased, ["Two"])[0].tolist() == ids_of("[UNK]")
  (tmp_path / "vocab.txt").write_text("one\ntwo")
  with pytest.raises(ValueError, match="vocab.txt is not BERT's") as error:
    tokenizer_lib.load(tmp_path / "vocab.txt", 30)
  assert "\n" not in str(error.value)


def test_blocks_have_its_special_tokens(tokenizer):
  kind = special.of(tokenizer)
  ids = tokenizer_lib.encode(tokenizer, ["one two", "six"])
  stream = np.concatenate([*packing.stream(ids, np.dtype("<u2"), kind)])
  assert stream.tolist() == ids_of("one", "two", "[SEP]", "six", "[SEP]")
  blocks = packing.BlockSource(stream, 4, True, kind)
  assert blocks[1]["tokens"].tolist() == ids_of(
    "[CLS]", "six", "[SEP]", "[PAD]"
  )


def row_of(tokenizer, length, text, pair):
  """The row of a task with segments."""
  model = types.SimpleNamespace(num_segments=2)
  task = classification.Classification(classification.Config(), model, length)
  encoded = tokenizer_lib.encode(tokenizer, [text, pair])
  record = dict(zip(("text", "pair"), encoded, strict=True), label=1)
  data = types.SimpleNamespace(special=special.of(tokenizer))
  return task.example(record, None, data)


@pytest.mark.parametrize("length", [11, 12])
def test_rows_are_those_of_transformers(tokenizer, length):
  """Of texts and pairs, the longer of which is cut; even and odd lengths."""
  transformers = pytest.importorskip("transformers")
  theirs = transformers.BertTokenizer(
    vocab={w: i for i, w in enumerate(VOCABULARY)}
  )
  for first in range(1, 2 * length, 2):
    for second in range(0, 2 * length):
      text, pair = " ".join(["one"] * first), " ".join(["dogs"] * second)
      row = row_of(tokenizer, length, text, pair)
      given = [text, pair] if pair else [text]
      want = theirs(*given, truncation="longest_first", max_length=length)
      real = row["mask"]
      assert row["tokens"][real].tolist() == want["input_ids"]
      assert row["segments"][real].tolist() == want["token_type_ids"]
      assert not row["tokens"][~real].any() and not row["segments"][~real].any()


@pytest.mark.parametrize("segments", [0, 2])
def test_an_exported_tokenizer_joins_pairs(tokenizer, tmp_path, segments):
  """With segments only for a model that has them; DistilBERT has none."""
  config = types.SimpleNamespace(num_segments=segments, max_length=16)
  exported._write_tokenizer(tmp_path, tokenizer, config)
  made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  row = row_of(tokenizer, 16, "one dogs", "two!")
  found = made.encode("one dogs", "two!")
  assert found.ids == row["tokens"][row["mask"]].tolist()
  types_of = row["segments"][row["mask"]] if segments else [0] * len(found)
  assert found.type_ids == list(types_of)
  settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert settings["pad_token"] == "[PAD]" and settings["bos_token"] == "[CLS]"
  assert ("model_input_names" in settings) == bool(segments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of a random BERT with its head, as a release of it."""
  path = tmp_path_factory.mktemp("model")
  rng = np.random.default_rng(0)
  tensors = bert.tensors("bert.")
  size = len(VOCABULARY), bert.M
  start = "cls.predictions"
  shapes = {
    f"{start}.transform.dense.weight": (bert.M, bert.M),
    f"{start}.transform.dense.bias": (bert.M,),
    f"{start}.transform.LayerNorm.weight": (bert.M,),
    f"{start}.transform.LayerNorm.bias": (bert.M,),
    f"{start}.bias": size[:1],
    "bert.embeddings.word_embeddings.weight": size,
    "bert.embeddings.position_embeddings.weight": (16, bert.M),
  }
  tensors |= {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  settings = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "vocab_size": len(VOCABULARY),
    "hidden_size": bert.M,
    "num_hidden_layers": bert.L,
    "num_attention_heads": bert.H,
    "intermediate_size": bert.F,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
  }
  weights.write(path, tensors, settings, "float32")
  saved(path)
  return path


def test_masks_are_filled_as_transformers_does(folder):
  run = loading.load(str(folder))
  assert run.fill("one [MASK] dogs") == run.fill("one <mask> dogs")
  with pytest.raises(ValueError, match=r"there is no \[MASK\] to fill"):
    run.fill("one")
  with pytest.raises(ValueError, match=r"20 tokens; .*\[CLS\] and \[SEP\] inc"):
    run.fill("one " * 20)
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
  tokens = ids_of("[CLS]", "one", "[MASK]", "dog", "##s", "[SEP]")
  with torch.no_grad():
    logits = model(torch.tensor([tokens])).logits[0, 2]
  (answers,) = run.fill("one [MASK] dogs", top=3)
  want, places = torch.softmax(logits, -1).topk(3)
  assert [p for _, p in answers] == pytest.approx(want.tolist(), abs=2e-5)
  assert [w for w, _ in answers] == [
    run.tokenizer.decode([i]) for i in places.tolist()
  ]


TUNE = (
  "train",
  "--config=tests/tiny_finetune.py",
  "--config.data.files={tmp}/train.jsonl",
  "--config.train.num_steps=3",
)


@pytest.mark.slow
def test_it_is_fine_tuned_on_pairs_and_exported(folder, command, tmp_path):
  """The export answers as the run, and as transformers with its tokenizer."""
  labeled.write(tmp_path / "train.jsonl", 60, pair=True)
  status, out, err = command(
    *TUNE, f"--init_from={folder}", "--workdir={tmp}/run"
  )
  assert status == 0 and "with a new head" in out, err
  assert command(*TUNE, "--workdir={tmp}/run")[0] == 0  # it is complete
  status, out, err = command("export", "--workdir={tmp}/run", "--to={tmp}/out")
  assert status == 0 and "transformers' AutoModel" in out, err
  answers = []
  for name in ("run", "out"):
    status, _, err = command(
      "predict",
      f"--workdir={{tmp}}/{name}",
      "--input={tmp}/train.jsonl",
      f"--to={{tmp}}/{name}.jsonl",
    )
    assert status == 0, err
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    answers.append([[*json.loads(x)["probabilities"].values()] for x in lines])
  np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)
  transformers = pytest.importorskip("transformers")
  theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
    tmp_path / "out"
  ).eval()
  made = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  rows = (tmp_path / "train.jsonl").read_text().splitlines()
  texts = [[json.loads(x)[k] for x in rows] for k in ("text", "text_pair")]
  given = made(*texts, padding=True, truncation=True, return_tensors="pt")
  assert given["token_type_ids"].any()
  shares = theirs(**given).logits.softmax(-1).detach().numpy()
  np.testing.assert_allclose(shares, answers[0], rtol=0, atol=1e-5)


def test_a_classifier_of_distilberts_is_a_start(tmp_path):
  """Of its encoder: no model here has its head, so it is not loaded."""
  tensors, _ = bert.distilbert("distilbert.")
  tensors["pre_classifier.weight"] = np.zeros((bert.M, bert.M), np.float32)
  settings = {
    "architectures": ["DistilBertForSequenceClassification"],
    "model_type": "distilbert",
    "n_heads": bert.H,
  }
  weights.write(tmp_path, tensors, settings, "float32")
  (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[: bert.V]))
  model, kind = origin.find(str(tmp_path)).groups()
  assert (model["num_layers"], kind["name"]) == (bert.L, "softmax")
  assert not [x for x in origin.find(str(tmp_path)).shapes() if "head" in x]
  with pytest.raises(ValueError, match="ReLU"):
    loading.load(str(tmp_path))


def test_another_vocabulary_and_none_are_one_line(folder, command, tmp_path):
  labeled.write(tmp_path / "train.jsonl", 60)
  start = f"--init_from={tmp_path}/model"
  copied = tmp_path / "model"
  copied.mkdir()
  for path in pathlib.Path(folder).iterdir():
    (copied / path.name).write_bytes(path.read_bytes())
  words = [*VOCABULARY[:-2], *VOCABULARY[:-3:-1]]
  (tmp_path / "vocab.txt").write_text("\n".join(words))
  given = f"--config.data.tokenizer_path={tmp_path}/vocab.txt"
  status, _, err = command(*TUNE, start, "--workdir={tmp}/a", given)
  assert status == 2 and "its tokenizer is another one" in err, err
  (copied / "vocab.txt").unlink()
  status, _, err = command(*TUNE, start, "--workdir={tmp}/a")
  assert status == 2 and "tokenizer.json is missing" in err
  assert len(err.strip().splitlines()) == 1
  assert not (tmp_path / "a").exists()


CONFIG = """
from tests import tiny

def get_config():
  config = tiny.get_config()
  config.train.init_model = True
  config.data.source = "files"
  return config
"""


@pytest.mark.slow
def test_it_is_pretrained_further(folder, command, tmp_path):
  """Blocks of other tokens than <s>, <pad> and </s>, and their masks."""
  (tmp_path / "text.txt").write_text(" ".join(TEXTS * 40))
  (tmp_path / "config.py").write_text(CONFIG)
  status, _, err = command(
    "train",
    "--config={tmp}/config.py",
    "--config.data.files={tmp}/text.txt",
    f"--init_from={folder}",
    "--workdir={tmp}/run",
  )
  assert status == 0, err
  run = loading.load(str(tmp_path / "run"))
  assert run.special.is_bert and run.fill("one [MASK]")

"""Config files, texts and tokenizers that a user may get wrong, at random."""

import gzip
import json

from tests import user_errors

_HEAD = (
  "from configs import smoke\ndef get_config({}):\n  c = smoke.get_config()\n"
)
CONFIGS = (
  "",
  "x = 1\n",
  "get_config = 3\n",
  "def get_config(:\n",
  "import no_such_module\n",
  "raise KeyError('x')\n",
  "import sys\nsys.exit(3)\n",
  "def get_config():\n  return get_config()\n",
  "\0",
  "\ufeffx = 1",
  _HEAD.format(""),
  _HEAD.format("a, b") + "  return c\n",
  _HEAD.format("*, a") + "  return c\n",
  _HEAD.format("") + "  return c.to_dict()\n",
  _HEAD.format("") + "  return c.model\n",
  _HEAD.format("") + "  yield c\n",
  _HEAD.format("") + "  c.model.new_field = 3\n  return c\n",
  _HEAD.format("") + "  c.unlock()\n  c.model.new_field = 3\n  return c\n",
  _HEAD.format("") + "  c.unlock()\n  del c.run\n  return c\n",
  _HEAD.format("") + "  c.unlock()\n  c.mesh = 3\n  return c\n",
  _HEAD.format("") + "  c.unlock()\n  c.seed = None\n  return c\n",
  _HEAD.format("") + "  c.seed = 'x'\n  return c\n",
  _HEAD.format("") + "  c.train.batch_size = 1.5\n  return c\n",
  _HEAD.format("") + "  c.optimizer.learning_rate = float('nan')\n  return c\n",
  _HEAD.format("") + "  c.attention.projected_lengths = (1, 'a')\n  return c\n",
  _HEAD.format("") + "  return c\n",
  _HEAD.format("argument") + "  c.seed = int(argument)\n  return c\n",
)


def configs(rng):
  """A command line with a config file of its own, which may be cut off."""
  text = rng.choice(CONFIGS)
  if rng.random() < 0.2:
    text = text[: rng.randrange(len(text) + 1)]
  name = rng.choice(
    ("c.py", "c.py", "a b.py", "c[1].py", "c.yaml", "c", "é.py")
  )
  argument = rng.choice(("", "", ":", ":3", ":x=1", ":a:b"))
  word = rng.choice(("--config={}", "--config={}", "--config {}", "-config={}"))
  word = word.format(rng.choice(("", "", "{tmp}/", "./", "~/", "no/")) + name)
  words = (
    (word + argument).split(" ", 1) if word[8] == " " else [word + argument]
  )
  files = {name: text.encode("utf-8", "surrogatepass")}
  return user_errors.Case(
    (*words, user_errors.RUN, *user_errors.flags()), files
  )


LINE = b'{"text": "some words of a text that is long enough to be cut"}\n'
TEXTS = (
  b"",
  b"\n",
  b" ",
  b"short",
  b"some words of a text, " * 200,
  b"\xff\xfe\x00",
  bytes(range(256)) * 20,
  "\ufeffwords ".encode() * 300,
  b"a" * 20_000,
  b"{",
  b"[]",
  b"[1, 2]",
  b"null\n",
  b'{"text": null}\n',
  b'{"text": 3}\n',
  b'{"body": "words"}\n',
  b'{"text": "\\ud800 words"}\n' * 30,
  b'{"text": ""}\n' * 30,
  b"[" * 100_000,
  b'{"text": ' + b"9" * 5_000 + b"}\n",
  LINE * 40,
  LINE * 40 + b"{",
  LINE[:-1].replace(b"}", b', "n": NaN}\n') * 40,
  b"\r\n".join([LINE.strip()] * 40),
  b'[{"text": "words and words"}, {"text": "more words"}]',
  gzip.compress(LINE * 40),
  gzip.compress(LINE * 40)[:50],
)
NAMES = ("a.txt", "a.jsonl", "a.json", "A.JSONL", "a.txt.gz", "a.jsonl.gz")
NAMES += ("a.jsonl.xz", "a.zst", "a.parquet", "x[1].txt", "a b.txt", "a,b.txt")
GLOBS = (
  "{tmp}/*",
  "*",
  "{tmp}/a*",
  "d/**",
  "",
  ",",
  "[",
  "~/*",
  "gs://b/*.txt",
)


def data(rng):
  """A command line with files of text that may not be readable."""
  files = {}
  for _ in range(rng.choice((1, 1, 2, 3))):
    files["d/" + rng.choice(NAMES)] = rng.choice(TEXTS)
  chosen = rng.choice((*files, *files, "d/*", "d/*", *GLOBS))
  fields = {"data__source": "files", "data__files": chosen}
  if rng.random() < 0.2:
    fields["data__validation_files"] = rng.choice((*files, *GLOBS))
  if rng.random() < 0.2:
    fields["data__text_feature"] = rng.choice(("body", "", "text.x", "é"))
  words = (user_errors.CONFIG, user_errors.RUN, *user_errors.flags(**fields))
  return user_errors.Case(words, files)


def tokenizer(rng):
  """A command line with a tokenizer's file that may not be one."""
  import tokenizers

  special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
  sound = tokenizers.Tokenizer(tokenizers.models.BPE(special, []))
  sound.add_special_tokens(list(special))
  whole = json.loads(sound.to_str())
  model = whole["model"]
  changes = rng.choice(
    (
      {},
      {"model": None},
      {"model": {}},
      {"model": {"type": "BPE", "vocab": {"<s>": 0}}},
      {
        "model": model | {"vocab": {name: 9 - x for name, x in special.items()}}
      },
      {"model": model | {"vocab": special | {"x": 10**12}}},
      {"model": model | {"vocab": special | {"x": -1}}},
      {"model": model | {"vocab": []}},
      {"model": model | {"merges": [["a", "b"]]}},
      {"model": model | {"type": "Unknown"}},
      {"version": 7},
      {"added_tokens": None},
      {"added_tokens": []},
      {"pre_tokenizer": {"type": "x"}},
      {"normalizer": 3},
    )
  )
  text = json.dumps(whole | changes).encode()
  odd = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b"\xff",
    b"[" * 100_000,
    b"{}",
    text[:99],
  )
  if rng.random() < 0.4:
    text = rng.choice(odd)
  path = rng.choice(
    ("t.json",) * 5 + ("{tmp}/t.json", "no.json", ".", "~/t.json")
  )
  fields = {"data__tokenizer_path": path}
  words = (user_errors.CONFIG, user_errors.RUN, *user_errors.flags(**fields))
  return user_errors.Case(words, {"t.json": text})

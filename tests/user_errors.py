"""Command lines that a user may get wrong, drawn at random from a seed.

All that is known of them is how they have to end: with status 0, or with status
2, one line on stderr and nothing left behind.
"""

import dataclasses
import gzip
import json
import logging
import multiprocessing
import os
import pathlib
import random
import re
import resource
import sys

ROOT = pathlib.Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
  ["linformer_jax.main", "linformer_jax.train", "tests.user_errors"]
)
SECONDS, BYTES = 120, 16 * 2**30  # that a command may take
# Lines on stderr about text that is tokenized, which are no complaint.
PROGRESS = re.compile(
  r"(Reading|Training a tokenizer|Tokeni[sz]ing|The training text yields) .*"
)
TINY = {
  "data.source": "synthetic",
  "model.vocab_size": 300,
  "model.max_length": 16,
  "attention.projected_length": 8,
  "model.embed_dim": 16,
  "model.position_dims": 8,
  "model.num_heads": 2,
  "model.mlp_dim": 32,
  "train.batch_size": 4,
  "train.num_steps": 4,
  "optimizer.warmup_steps": 1,
}


@dataclasses.dataclass(frozen=True)
class Case:
  """A command line with what it stands on.

  Attributes:
    words: of the command line.
    files: content by path, in the folder that the command is started in.
    environment: variables; '{tmp}' in them and in words is that folder.
  """

  words: tuple[str, ...]
  files: dict[str, bytes] = dataclasses.field(default_factory=dict)
  environment: dict[str, str] = dataclasses.field(default_factory=dict)


def flags(**fields) -> list[str]:
  """Flags of the tiny run with fields changed: model__max_length=8."""
  fields = {name.replace("__", "."): x for name, x in fields.items()}
  values = (TINY | fields).items()
  return [f"--config.{name}={value}" for name, value in values]


def _trace(experiment, workdir):
  """In place of training: everything up to the first update, on shapes."""
  import jax

  steps = experiment.steps
  jax.eval_shape(steps.train, steps.abstract_state, steps.abstract_batch)
  os._exit(0)


def _main(words, environment, folder):
  """The forked process."""
  from linformer_jax import main, train

  for number, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT), number)
  resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
  logging.getLogger().handlers.clear()  # the command sets its own
  train.train_and_evaluate = _trace
  os.chdir(folder)
  os.environ.update(environment)
  sys.argv = ["main", *words]
  sys.exit(main.main())


def contents(folder: pathlib.Path) -> dict[str, bytes | None]:
  """All that is in a folder, without the cache of texts."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in folder.rglob("*")
    if "cache" not in path.relative_to(folder).parts
  }


def problem_of(case: Case, folder: pathlib.Path) -> str | None:
  """Runs a command up to its first update; what is wrong with how it ends."""
  folder.mkdir()
  for name, content in case.files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  words = [word.replace("{tmp}", str(folder)) for word in case.words]
  environment = {"JAX_PLATFORMS": "cpu"} | case.environment
  for name, value in environment.items():
    environment[name] = value.replace("{tmp}", str(folder))
  before = contents(folder)
  process = CONTEXT.Process(target=_main, args=(words, environment, folder))
  process.start()
  process.join(SECONDS)
  status = process.exitcode
  if status is None:
    process.kill()
    process.join()
    return f"does not end in {SECONDS} seconds"
  if status == 0:
    return None
  err = pathlib.Path(f"{folder}.err").read_text(errors="replace")
  return complaint(status, err) or (
    None if contents(folder) == before else "leaves something behind"
  )


def complaint(status: int, err: str) -> str | None:
  """What is wrong with a status and what is on stderr."""
  *lines, last = err.splitlines() or [""]
  others = [line for line in lines if not PROGRESS.fullmatch(line)]
  if status != 2 or others or not last.startswith("linformer_jax: "):
    return f"exit {status}: {err[-1500:]}"
  return None


VALUES = (
  *("0", "1", "-1", "2", "3", "7", "16", "100000", "2147483647", "2147483648"),
  *("1000000000000", "-1000000000000", "1e12", "0.0", "0.5", "1.0", "-0.5"),
  *("1e-300", "1e300", "nan", "inf", "-inf", "abc", "", " ", "true", "False"),
  *("None", "(1, 2)", "(1,)", "('a',)", "[]", "{}", "1,2", "0x10", "1_000"),
  *("float16", "float32", "softmax", "none", "mean_pool", "é", "~/x", "s3://x"),
  *("{tmp}/nothing", "{tmp}", "%s", "'", "\n", "-", "--", "\\", "*"),
)


def _fields(rng):
  from configs import smoke
  from linformer_jax.run import config_fields

  names = sorted(config_fields.flatten(smoke.get_config()))
  picked = rng.choices(names, k=rng.choice((1, 1, 1, 2, 3)))
  changed = {name: rng.choice(VALUES) for name in picked}
  return Case(("--config=configs/smoke.py", "--workdir=run", *flags(**changed)))


ATTENTIONS = ("softmax", "local", "linear", "local+linformer", "local+local")
ATTENTIONS += ("linformer+linear", "softmax+local+linear")


def _attentions(rng):
  """Fields of other attentions than the config's, and of several by layer."""
  from configs import smoke
  from linformer_jax.run import config_fields

  names = rng.choice(ATTENTIONS)
  group = smoke.get_config(f"attention={names}").attention
  fields = [f"attention.{name}" for name in config_fields.flatten(group)]
  fields = [name for name in fields if name != "attention.name"] or fields
  picked = rng.choices(fields, k=rng.choice((0, 1, 1, 2)))
  changed = {name: rng.choice(VALUES) for name in picked}
  values = {name: x for name, x in TINY.items() if "attention" not in name}
  if "linformer" in names:
    values["attention.linformer.projected_length"] = 8
  words = [f"--config.{name}={x}" for name, x in (values | changed).items()]
  names = rng.choice((names,) * 36 + ("", "x", "+", "local+", "linear+x"))
  config = f"--config=configs/smoke.py:attention={names}"
  return Case((config, "--workdir=run", *words))


def _words(rng):
  """A command line with some of its words damaged."""
  words = ["train", "--config=configs/smoke.py", "--workdir=run", *flags()]
  for _ in range(rng.choice((1, 1, 2))):
    at = rng.randrange(len(words))
    word = words[at]
    place = rng.randrange(len(word) + 1)
    words[at : at + 1] = rng.choice(
      (
        [],
        [word, word],
        [word[:place] + word[place + 1 :]],
        [word[:place] + rng.choice("x=.-:, é") + word[place:]],
        word.split("=", 1),
        [word.split("=", 1)[0]],
        [word.split("=", 1)[0] + "="],
        [word.replace("--", "-", 1)],
        [word.replace("--", "--no", 1)],
        [rng.choice(("-", "--", "---", "-x", "--x", "=", "", "fly", "--new"))],
      )
    )
  return Case(tuple(words))


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


def _config_files(rng):
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
  return Case((*words, "--workdir=run", *flags()), files)


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


def _data(rng):
  files = {}
  for _ in range(rng.choice((1, 1, 2, 3))):
    files["d/" + rng.choice(NAMES)] = rng.choice(TEXTS)
  chosen = rng.choice((*files, *files, "d/*", "d/*", *GLOBS))
  fields = {"data__source": "files", "data__files": chosen}
  if rng.random() < 0.2:
    fields["data__validation_files"] = rng.choice((*files, *GLOBS))
  if rng.random() < 0.2:
    fields["data__text_feature"] = rng.choice(("body", "", "text.x", "é"))
  words = ("--config=configs/smoke.py", "--workdir=run", *flags(**fields))
  return Case(words, files)


def _tokenizers(rng):
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
  words = ("--config=configs/smoke.py", "--workdir=run", *flags(**fields))
  return Case(words, {"t.json": text})


FOLDERS = (
  *("", " ", "run", "a b", "x[1]", "é", "a\nb", "~", "~/x", "~nobody/x", "."),
  *(
    "s3://x/y",
    "file:///x",
    "gs:/x",
    "gs://",
    "http://x",
    "/proc/x",
    "/dev/null",
  ),
  *("{tmp}/file", "{tmp}/file/x", "{tmp}/others", "{tmp}/old", "x" * 300),
  *("x/" * 3000 + "x", "{tmp}/broken", "-x", "--x", "a:b", "*", "../x/../y"),
)


def _folders(rng):
  mode = rng.choice(("train", "train", "evaluate"))
  words = [mode, "--config=configs/smoke.py", *flags()]
  words.append(f"--workdir={rng.choice(FOLDERS)}")
  if mode == "train" and rng.random() < 0.2:
    words.append("--new")
  files = {
    "file": b"",
    "others/thesis.tex": b"mine",
    "broken/config.json": b"{",
  }
  files["old/config.json"] = rng.choice((b"[]", b"{}", b"null", b'{"seed": 0}'))
  return Case(tuple(words), files)


def _environment(rng):
  name = rng.choice(("LINFORMER_CACHE", "LINFORMER_CACHE", "HOME", "TMPDIR"))
  name = rng.choice((name, "MPLCONFIGDIR", "LC_ALL", "COLUMNS"))
  value = rng.choice(FOLDERS[:-7])
  words = ("--config=configs/smoke.py", "--workdir=run", *flags())
  return Case(words, {"file": b""}, {name: value})


KINDS = {
  "fields": _fields,
  "attentions": _attentions,
  "words": _words,
  "config files": _config_files,
  "data": _data,
  "tokenizers": _tokenizers,
  "folders": _folders,
  "environment": _environment,
}


def draw(kind: str, seed: int, cache: str) -> Case:
  """The case of a kind and a seed; texts are kept in `cache`."""
  case = KINDS[kind](random.Random(f"{kind} {seed}"))
  home = {"HOME": "{tmp}/home", "LINFORMER_CACHE": cache}
  return dataclasses.replace(case, environment=home | case.environment)

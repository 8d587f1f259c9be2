"""Command lines that a user may get wrong, drawn at random from a seed."""

import dataclasses
import random

from tests import drawn_files, user_errors

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
  return user_errors.Case(
    (user_errors.CONFIG, user_errors.RUN, *user_errors.flags(**changed))
  )


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
  values = {
    name: x for name, x in user_errors.TINY.items() if "attention" not in name
  }
  if "linformer" in names:
    values["attention.linformer.projected_length"] = 8
  words = [f"--config.{name}={x}" for name, x in (values | changed).items()]
  names = rng.choice((names,) * 36 + ("", "x", "+", "local+", "linear+x"))
  config = f"--config=configs/smoke.py:attention={names}"
  return user_errors.Case((config, user_errors.RUN, *words))


def _words(rng):
  """A command line with some of its words damaged."""
  words = ["train", user_errors.CONFIG, user_errors.RUN, *user_errors.flags()]
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
  return user_errors.Case(tuple(words))


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
  words = [mode, user_errors.CONFIG, *user_errors.flags()]
  words.append(f"--workdir={rng.choice(FOLDERS)}")
  if mode == "train" and rng.random() < 0.2:
    words.append("--new")
  files = {
    "file": b"",
    "others/thesis.tex": b"mine",
    "broken/config.json": b"{",
  }
  files["old/config.json"] = rng.choice((b"[]", b"{}", b"null", b'{"seed": 0}'))
  return user_errors.Case(tuple(words), files)


def _environment(rng):
  name = rng.choice(("LINFORMER_CACHE", "LINFORMER_CACHE", "HOME", "TMPDIR"))
  name = rng.choice((name, "MPLCONFIGDIR", "LC_ALL", "COLUMNS"))
  value = rng.choice(FOLDERS[:-7])
  words = (user_errors.CONFIG, user_errors.RUN, *user_errors.flags())
  return user_errors.Case(words, {"file": b""}, {name: value})


KINDS = {
  "fields": _fields,
  "attentions": _attentions,
  "words": _words,
  "config files": drawn_files.configs,
  "data": drawn_files.data,
  "tokenizers": drawn_files.tokenizer,
  "folders": _folders,
  "environment": _environment,
}


def draw(kind: str, seed: int, cache: str) -> user_errors.Case:
  """The case of a kind and a seed; texts are kept in `cache`."""
  case = KINDS[kind](random.Random(f"{kind} {seed}"))
  home = {"HOME": "{tmp}/home", "LINFORMER_CACHE": cache}
  return dataclasses.replace(case, environment=home | case.environment)

"""Makes a tokenizer from the vocab.txt of older BERT releases."""

import json
import pathlib

from tokenizers import implementations

VOCABULARY = "vocab.txt"


def read(path: pathlib.Path) -> str:
  """Returns the tokenizer.json of a vocabulary of WordPiece, a token a line.

  Texts are lowercased unless `do_lower_case` in the tokenizer_config.json
  beside the file is false; the default is BERT's.

  Raises:
    ValueError: in one line, if a file cannot be read.
  """
  beside = path.with_name("tokenizer_config.json")
  try:
    settings = json.loads(beside.read_text()) if beside.exists() else {}
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
  except (OSError, ValueError) as error:
    raise ValueError(f"cannot read the tokenizer {path}: {error}") from error
  accents = settings.get("strip_accents")
  vocabulary = {line.rstrip("\r"): i for i, line in enumerate(lines)}
  try:
    made = implementations.BertWordPieceTokenizer(
      vocabulary,
      lowercase=bool(settings.get("do_lower_case", True)),
      handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
      strip_accents=accents if isinstance(accents, bool) else None,
    )
  except TypeError as error:  # [SEP] or [CLS] is missing
    raise ValueError(f"{path} is not BERT's vocabulary: {error}") from error
  return made.to_str()


def find(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the file `name` in a folder, or the vocab.txt in its place."""
  path = folder / name
  other = folder / VOCABULARY
  return other if other.exists() and not path.exists() else path

"""Records what a run was trained on, and compares it when the run resumes.

Files are compared by content: touched, copied or moved files are the same text,
and a rebuilt cache holds the same tokens.
"""

import collections
import dataclasses
import hashlib
import json
import os
from typing import Any

from flax import traverse_util

# (path, bytes, sha256) of each file that a corpus was read from.
Inputs = list[list[Any]]

_NAMED = 3  # files in a message


@dataclasses.dataclass(frozen=True)
class Record:
  """Identifies a corpus, its split and its tokenizer.

  Attributes:
    text: JSON-like; equal for equal text, split and tokenizer settings.
    inputs: the files that the text was read from, for messages.
    tokens: the bytes and sha256 of each file of the cache entry, by name: the
      tokenizer and the token streams.
    directory: the cache entry.
    tokenizers: the version of the package that made the tokens.
  """

  text: dict[str, Any]
  inputs: Inputs
  tokens: dict[str, dict[str, Any]]
  directory: str
  tokenizers: str

  @property
  def sha256(self) -> str:
    """Identifies the tokenizer and all tokens, for records of results."""
    text = json.dumps(self.tokens, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def to_json(self) -> str:
    """Returns the content of a run's corpus.json."""
    return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def from_json(text: str) -> Record:
  """Returns the record that `Record.to_json` wrote.

  Raises:
    ValueError: if the text is damaged.
  """
  try:
    record = Record(**json.loads(text))
  except (TypeError, RecursionError) as error:
    raise ValueError(f"not the record of a corpus: {error}") from None
  kinds = {"text": dict, "inputs": list, "tokens": dict, "directory": str}
  for name, kind in kinds.items():
    if not isinstance(getattr(record, name), kind):
      raise ValueError(f"not the record of a corpus: {name} is damaged")
  return record


def changes(known: Record, text: dict[str, Any], inputs: Inputs) -> str:
  """Describes how the text differs from the recorded one; '' if it does not.

  Args:
    known: the record of the run.
    text: `Record.text` of the current text.
    inputs: `Record.inputs` of the current text.
  """
  if known.text == text:
    return ""
  named = _changed_files(known.inputs, inputs)
  if not named:
    there, here = (
      traverse_util.flatten_dict(tree, sep=".") for tree in (known.text, text)
    )
    named = [
      f"{name} was {there.get(name)!r} and is {here.get(name)!r}"
      for name in sorted(there.keys() | here.keys())
      if there.get(name) != here.get(name)
    ]
  more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
  return "; ".join(named[:_NAMED]) + more


def _changed_files(known: Inputs, now: Inputs) -> list[str]:
  """Lists the files that were added, edited, removed or reordered."""
  there = collections.Counter(digest for _, _, digest in known)
  here = collections.Counter(digest for _, _, digest in now)
  added = [path for path, _, digest in now if here[digest] > there[digest]]
  gone = [path for path, _, digest in known if there[digest] > here[digest]]
  # A file whose name is both added and gone was edited. Base names are compared
  # because a corpus that was moved keeps its names but not its folders.
  names = {os.path.basename(path) for path in added}
  edited = names & {os.path.basename(path) for path in gone}
  named = [
    f"{path} {'has changed' if os.path.basename(path) in edited else 'is new'}"
    for path in added
  ]
  named += [
    f"{path} is gone" for path in gone if os.path.basename(path) not in edited
  ]
  order = [digest for _, _, digest in known], [digest for _, _, digest in now]
  if not named and order[0] != order[1]:
    named = ["the same files come in another order, or are split differently"]
  return named

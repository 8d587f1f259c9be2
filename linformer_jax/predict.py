"""Labels a file of texts with a trained classifier or regression."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from linformer_jax import loading, models
from linformer_jax.data import labeled, pipeline
from linformer_jax.data.text import json_lines
from linformer_jax.data.text import special as special_lib
from linformer_jax.data.text import tokenizer as tokenizer_lib
from linformer_jax.run import console, files
from linformer_jax.tasks import classification, matching, regression

_BATCH = 32
_SHORTEST = 32  # tokens in a row; longer rows have twice as many, up to N
_TOLD = 1_000  # rows between two lines of progress


@dataclasses.dataclass(frozen=True)
class Fields:
  """Names of the fields of a row.

  Attributes:
    text: of the text.
    pair: of the second text.
    each: whether each row must have the second one, as in training.
    some: whether some row must, as the model was trained on pairs.
  """

  text: str = "text"
  pair: str = "text_pair"
  each: bool = False
  some: bool = False


def fields_of(run: loading.Run, result: dict[str, Any]) -> Fields:
  """Returns the fields that a run was trained on.

  Args:
    run: the run, or an exported model, which may not know its own.
    result: the run's result.json, or {}.
  """
  if run.config is None:
    return Fields()
  data, pairs = run.config.data, bool(result.get("train_pairs"))
  named = bool(data.pair_feature)
  pair = data.pair_feature or Fields.pair
  return Fields(data.text_feature, pair, named, pairs and not named)


class Row(NamedTuple):
  """A row to label: its text, its second text or '', and where it is."""

  text: str
  pair: str = ""
  place: str = ""


def texts(path: str, fields: Fields) -> Iterator[Row]:
  """Yields the rows of JSON lines, CSV or TSV.

  Raises:
    ValueError: in one line that names the file and the place in it.
  """
  columns = [fields.text, *[fields.pair] * fields.each]
  for value, place in labeled.values(path, columns):
    text = json_lines.text_of(value, fields.text, place)
    labeled.check_text(text, place)
    pair = ""
    # A null is no pair, as in training.
    if value.get(fields.pair, fields.pair if fields.each else None) is not None:
      pair = json_lines.text_of(value, fields.pair, place)
    yield Row(text, pair, place)


class Predictor:
  """A classifier, or a regression, and its tokenizer.

  Attributes:
    labels: names of the classes; () of a regression.
    truncated: how many texts had more tokens than the model takes.
  """

  def __init__(self, run: loading.Run, truncate: bool = True):
    """Takes a run or an exported model; `truncate` False refuses long texts.

    Raises:
      ValueError: if it is no classifier.
    """
    if not isinstance(run.model, (models.Classifier, models.Matcher)):
      name = type(run.model).__name__
      raise ValueError(f"this is a {name}, which does not classify texts")
    self._run, config = run, run.model.config
    size = run.model.num_classes
    if isinstance(run.model, models.Matcher):
      made = matching.Config(size)
    else:
      made = regression.Config() if size == 1 else classification.Config(size)
    self._task = made.build(config, config.max_length)
    self.labels = () if size == 1 else run.labels or tuple(range(size))
    self._data = pipeline.Dataset((), (), special=special_lib.of(run.tokenizer))
    self.truncated, self._truncate = 0, truncate
    self._apply = jax.jit(run.model.apply)

  def outputs(self, rows: list[Row]) -> np.ndarray:
    """Returns float32 [rows, C], a value or the logits of each row.

    Rows are padded to a power of two of tokens, which changes no result.

    Raises:
      ValueError: for a row that is too long and may not be truncated.
    """
    encoded = iter(
      tokenizer_lib.encode(
        self._run.tokenizer, (text for row in rows for text in row[:2])
      )
    )
    examples = []
    for row in rows:
      text, pair = next(encoded), next(encoded)
      size, joined = len(text) + len(pair), bool(len(pair))
      if self._task.separate:
        if not joined:
          raise ValueError(
            f"{row.place}: there is no second text, and the model matches two"
          )
        size, joined = max(len(text), len(pair)), False
      room = self._data.special.room(self._task.length, joined)
      if size > room:
        self.truncated += 1
        if not self._truncate:
          raise ValueError(
            f"{row.place}: the row has {size:,} tokens, and the model takes "
            f"{room:,}: shorten it, or leave --truncate"
          )
      record = {"text": text, "pair": pair, "label": 0}
      examples.append(self._task.example(record, None, self._data))
    longest = max(example["mask"].sum(-1).max() for example in examples)
    length = _SHORTEST
    while length < longest:
      length *= 2
    length = min(length, self._task.length)
    examples += [self._task.filler()] * (_BATCH - len(examples))
    inputs = {
      name: np.stack([example[name][..., :length] for example in examples])
      for name in ("tokens", "mask", "segments")
      if name in examples[0]
    }
    found = self._apply(self._run.variables, **inputs)
    return np.asarray(found)[: len(rows)]

  def lines(self, rows: Iterator[Row]) -> Iterator[str]:
    """Yields a line of JSON for each row."""
    while batch := list(itertools.islice(rows, _BATCH)):
      for row in self.outputs(batch):
        yield json.dumps(self._answer(row), ensure_ascii=False)

  def _answer(self, row: np.ndarray) -> dict[str, Any]:
    if not self.labels:
      return {"value": round(float(row[0]), 6)}
    shares = {
      str(label): round(float(share), 6)
      for label, share in zip(self.labels, jax.nn.softmax(row), strict=True)
    }
    best = self.labels[int(row.argmax())]
    return {"label": best, "probabilities": shares}


def predict(
  run: loading.Run, source: str, to: str, fields: Fields, truncate: bool = True
) -> tuple[int, int, int]:
  """Appends a line to `to` for each row of `source` that has none yet.

  Args:
    run: the classifier.
    source: JSON lines, CSV or TSV.
    to: JSON lines; complete lines of an earlier call are kept.
    fields: of the text and of the pair.
    truncate: False refuses a text that is longer than the model takes.

  Returns:
    (lines that were there, lines written, texts that were truncated).

  Raises:
    ValueError: in one line, for a bad row; lines before it are written.
  """
  predictor = Predictor(run, truncate)
  if fields.some and not any(row.pair for row in texts(source, fields)):
    raise ValueError(
      f"{source}: no row has a text in field {fields.pair!r}, and the model "
      "was trained on pairs: add it"
    )
  rows = texts(source, fields)
  path = pathlib.Path(to)
  there = files.skip_answered(rows, source, to)
  written = 0
  with path.open("a", encoding="utf-8") as file:
    for line in predictor.lines(rows):
      file.write(line + "\n")
      written += 1
      if written % _TOLD == 0:
        file.flush()
        console.say(f"{there + written:,} rows")
  return there, written, predictor.truncated

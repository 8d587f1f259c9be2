"""Cuts text into full blocks of WordPiece tokens, as BERT reads them."""

import itertools
import os

import numpy as np
import tokenizers

CLS, SEP = "[CLS]", "[SEP]"
# English text has about five characters per token; a block may need more.
_CHARACTERS = 16
# Its first multiples modulo 1 are spread evenly, however many they are.
_GOLDEN = (5**0.5 - 1) / 2
# Any two of the first `count` multiples are at least 1 / (3 count) apart.
_CLOSEST = 3


def wordpiece(
  vocab: str | os.PathLike[str], lowercase: bool = True
) -> tokenizers.Tokenizer:
  """Returns BERT's tokenizer for a vocab.txt.

  Raises:
    ValueError: for a file that cannot be read or has no [CLS], [SEP], [UNK].
  """
  try:
    with open(vocab, encoding="utf-8") as file:
      lines = file.read().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read the vocabulary {vocab}: {error}") from error
  ids = {token: i for i, token in enumerate(lines)}
  missing = [token for token in (CLS, SEP, "[UNK]") if token not in ids]
  if missing:
    raise ValueError(f"{vocab} has no token {', '.join(missing)}")
  made = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(ids, unk_token="[UNK]")
  )
  made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
  made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return made


def spread(
  documents: list[str], tokenizer: tokenizers.Tokenizer, length: int, count: int
) -> np.ndarray:
  """Returns token blocks that start at evenly spread places in the text.

  Block i starts at the first word after the fraction (i times the golden ratio)
  modulo 1 of all characters, so a larger `count` keeps the first blocks. A
  block is [CLS], tokens, [SEP]. At the end of a document, [SEP] and the next
  document follow; the first document follows the last one.

  Args:
    documents: the text.
    tokenizer: as returned by `wordpiece`.
    length: N, the number of tokens in a block.
    count: the number of blocks.

  Returns:
    int32 [count, N].

  Raises:
    ValueError: for no text, or so little that blocks would overlap.
  """
  documents = [text for text in documents if text.strip()]
  bounds = np.cumsum([len(text) for text in documents])
  total = int(bounds[-1]) if documents else 0
  needed = count * length * 5 * (_CLOSEST if count > 1 else 1)
  if total < needed:
    raise ValueError(
      f"the text has {total:,} characters; {count} blocks of {length} tokens "
      f"that do not overlap take about {needed:,}"
    )
  cls, sep = (tokenizer.token_to_id(token) for token in (CLS, SEP))
  blocks = np.full((count, length), sep, np.int32)
  blocks[:, 0] = cls
  for i in range(count):
    at = int(total * (i * _GOLDEN % 1))
    first = int(np.searchsorted(bounds, at, side="right"))
    start = at - (int(bounds[first - 1]) if first else 0)
    ids = []
    for number in itertools.count(first):
      text = documents[number % len(documents)]
      if start:  # Move to the start of a word.
        start += len(text[start:].split(maxsplit=1)[0])
      piece = text[start : start + _CHARACTERS * length]
      ids += tokenizer.encode(piece, add_special_tokens=False).ids
      if len(ids) >= length - 2:
        break
      ids.append(sep)
      start = 0
    blocks[i, 1:-1] = ids[: length - 2]
  return blocks

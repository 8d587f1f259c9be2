"""Special tokens of a tokenizer: RoBERTa's, or BERT's in their place."""

import dataclasses

import tokenizers

ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BERT = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Special:
  """Ids of the special tokens, in the order of their `names`.

  Attributes:
    bos: begins a row.
    pad: fills a row up.
    eos: ends a text.
    unk: stands for what the vocabulary lacks.
    mask: hides a token.
    names: `ROBERTA` or `BERT`.
  """

  bos: int
  pad: int
  eos: int
  unk: int
  mask: int
  names: tuple[str, ...] = ROBERTA

  @property
  def is_bert(self) -> bool:
    """Whether rows have BERT's format."""
    return self.names == BERT

  @property
  def between(self) -> list[int]:
    """The ids between the texts of a pair."""
    return [self.eos] if self.is_bert else [self.eos, self.eos]

  def room(self, length: int, paired: bool) -> int:
    """Returns the tokens of text that fit a row of `length`."""
    return length - 2 - (len(self.between) if paired else 0)

  @property
  def ids(self) -> tuple[int, ...]:
    """All five ids."""
    return self.bos, self.pad, self.eos, self.unk, self.mask

  @property
  def mask_name(self) -> str:
    """The mask token as text."""
    return self.names[-1]


# The ids in tokenizers that are trained here.
TRAINED = Special(0, 1, 2, 3, 4)


def of(tokenizer: tokenizers.Tokenizer, name: str = "tokenizer") -> Special:
  """Returns the special tokens of a tokenizer.

  Args:
    tokenizer: with the tokens `ROBERTA`, or `BERT`.
    name: of the tokenizer, for the message.

  Raises:
    ValueError: if it lacks some of both.
  """
  missing = []
  for names in (ROBERTA, BERT):
    ids = [tokenizer.token_to_id(token) for token in names]
    if None not in ids:
      return Special(*ids, names)
    missing.append(names[ids.index(None)])
  raise ValueError(
    f"{name} has neither RoBERTa's special tokens ({missing[0]} is missing) "
    f"nor BERT's ({missing[1]} is missing)"
  )

"""Masked language modeling: chooses tokens to predict and replaces them.

BERT's rule (Devlin et al., 2019, section 3.1) with RoBERTa's dynamic masking
(Liu et al., 2019, section 4.1): an example gets a new mask in every epoch. The
number of predictions per sequence is static, so the model gathers [B, P]
positions and computes logits only there. Runs of several tokens can be masked
together, as in SpanBERT (Joshi et al. 2020, arXiv 1907.10529, section 3.1), but
all of one length.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What masking needs to know about a tokenizer.

  Attributes:
    mask_id: the id of `<mask>`.
    ordinary: int32 ids that may replace a token: all but the special ones.
    special: bool [V], True at ids that are never chosen for prediction.
  """

  mask_id: int
  ordinary: np.ndarray
  special: np.ndarray


def vocabulary(
  size: int, special_ids: Sequence[int], mask_id: int
) -> Vocabulary:
  """Builds a `Vocabulary` from the tokenizer's size and special ids.

  Args:
    size: the number of ids the tokenizer can produce.
    special_ids: ids that are neither predicted nor drawn at random.
    mask_id: the id of `<mask>`, one of `special_ids`.

  Raises:
    ValueError: if `mask_id` is not special or an id is not below `size`.
  """
  if mask_id not in special_ids:
    raise ValueError(f"mask_id {mask_id} is not in special_ids {special_ids}")
  if max(special_ids) >= size:
    raise ValueError(
      f"special id {max(special_ids)} is not below the size {size}"
    )
  special = np.zeros(size, dtype=bool)
  special[list(special_ids)] = True
  ordinary = np.flatnonzero(~special).astype(np.int32)
  return Vocabulary(mask_id=mask_id, ordinary=ordinary, special=special)


def num_predictions(length: int, rate: float, span: int = 1) -> int:
  """Returns P, the static number of predicted positions in `length` tokens.

  It is a multiple of `span`, and at least that.
  """
  return span * max(1, round(rate * length / span))


def mask_tokens(
  tokens: np.ndarray,
  mask: np.ndarray,
  rng: np.random.Generator,
  vocabulary: Vocabulary,
  num_predictions: int,
  span: int = 1,
) -> dict[str, np.ndarray]:
  """Masks `num_predictions` tokens of one sequence.

  Positions are drawn without replacement from the real tokens that are not
  special, in runs of `span` that do not overlap and pass over special tokens.
  The tokens of a run are replaced in the same way. A full block gets
  `num_predictions` of them. A padded block gets fewer, in proportion to its
  real tokens; otherwise every token of a short block would be masked and scored
  without context. Unused predictions have position 0, target 0 and weight 0.

  Args:
    tokens: int32 [N].
    mask: bool [N], True at real tokens.
    rng: the source of all randomness.
    vocabulary: special ids and replacements.
    num_predictions: P, a multiple of `span`.
    span: tokens that are masked together; a block with fewer has no prediction.

  Returns:
    `tokens` int32 [N] after masking, `mask` bool [N] as given, `positions`
    int32 [P] ascending, `targets` int32 [P], `weights` float32 [P].
  """
  candidates = np.flatnonzero(mask & ~vocabulary.special[tokens])
  runs = num_predictions // span
  real = np.count_nonzero(mask)
  if real < len(tokens):
    runs = min(runs, max(1, round(runs * real / len(tokens))))
  runs = min(runs, len(candidates) // span)
  count = runs * span

  # Runs of one token among fewer, then each is widened.
  places = len(candidates) - runs * (span - 1)
  starts = rng.choice(places, runs, replace=False, shuffle=False)
  starts.sort()
  starts += np.arange(runs) * (span - 1)
  chosen = candidates[(starts[:, None] + np.arange(span)).ravel()]
  fate = np.repeat(rng.random(runs), span)
  random = vocabulary.ordinary[
    rng.integers(len(vocabulary.ordinary), size=count)
  ]
  # Filled in place: this runs for every example, and np.pad would cost more
  # than everything else.
  positions = np.zeros(num_predictions, dtype=np.int32)
  targets = np.zeros(num_predictions, dtype=np.int32)
  weights = np.zeros(num_predictions, dtype=np.float32)
  positions[:count] = chosen
  targets[:count] = tokens[chosen]
  weights[:count] = 1
  shown = np.where(fate < MASK_SHARE + RANDOM_SHARE, random, targets[:count])
  shown[fate < MASK_SHARE] = vocabulary.mask_id
  hidden = tokens.copy()
  hidden[chosen] = shown
  return {
    "tokens": hidden,
    "mask": mask,
    "positions": positions,
    "targets": targets,
    "weights": weights,
  }

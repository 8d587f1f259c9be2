"""Compares the embeddings of a converted encoder with the original's."""

import dataclasses
import hashlib

import numpy as np

from linformer_jax.convert import distill, texts


def ranks(values) -> np.ndarray:
  """Returns ranks from zero; equal values have their mean rank."""
  values = np.asarray(values, np.float64)
  _, place, count = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(count) - (count + 1) / 2)[place]


def spearman(a, b) -> float:
  """Returns Spearman's rank correlation."""
  return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


@dataclasses.dataclass(frozen=True)
class Set:
  """Texts with pairs.

  Attributes:
    texts: all of them.
    pairs: int [P, 2], indices of the texts.
    labels: int [P], or None.
  """

  texts: texts.Texts
  pairs: np.ndarray
  labels: np.ndarray | None = None


def embed(encoder: distill.Encoder, chosen: Set) -> np.ndarray:
  """Returns the mean rows [B, M] of texts, of norm one."""
  rows = texts.means(encoder, chosen.texts).astype(np.float64)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def agreement(chosen: Set, got, exact) -> dict:
  """Returns the agreement of two embeddings of a set."""
  a, b = chosen.pairs.T
  ours, theirs = (np.sum(x[a] * x[b], axis=1) for x in (got, exact))
  found = {
    "spearman": spearman(ours, theirs),
    "cosine": float(np.mean(np.sum(got * exact, axis=1))),
  }
  if chosen.labels is not None:
    found["labels"] = spearman(ours, chosen.labels)
    found["labels_original"] = spearman(theirs, chosen.labels)
  found = {name: round(value, 5) for name, value in found.items()}
  return found | {
    "pairs": len(chosen.pairs),
    "tokens": round(float(chosen.texts.mask.sum(1).mean()), 1),
    "tokens_sha256": hashlib.sha256(chosen.texts.tokens.tobytes()).hexdigest(),
  }

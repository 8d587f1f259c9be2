"""Linformer in JAX/Flax: self-attention with linear complexity."""

import signal
import sys

if sys.argv[:1] == ["-m"] and "linformer_jax.main" in sys.orig_argv:
  # Command line only: no traceback for Ctrl-C during imports or for a broken
  # environment.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  from linformer_jax.run import startup

  startup.check()

from linformer_jax import attention
from linformer_jax.attention import (
  LinformerSelfAttention,
  SoftmaxSelfAttention,
)
from linformer_jax.models import (
  CausalLM,
  Classifier,
  Encoder,
  MaskedLM,
  ModelConfig,
  TokenEncoder,
)


def load(folder: str, step: int | str | None = None):
  """Loads a trained model; see `loading.load`, which this imports."""
  from linformer_jax import loading

  return loading.load(folder, step)


__version__ = "0.1.0"
__all__ = [
  "CausalLM",
  "Classifier",
  "Encoder",
  "LinformerSelfAttention",
  "MaskedLM",
  "ModelConfig",
  "SoftmaxSelfAttention",
  "TokenEncoder",
  "attention",
  "load",
]

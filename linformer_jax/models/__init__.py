"""Models: sizes, layers, heads, and weights from elsewhere."""

from linformer_jax.models.config import ModelConfig
from linformer_jax.models.encoder import (
  Block,
  CausalLM,
  Classifier,
  Encoder,
  MaskedLM,
  num_parameters,
)

__all__ = [
  "Block",
  "CausalLM",
  "Classifier",
  "Encoder",
  "MaskedLM",
  "ModelConfig",
  "num_parameters",
]

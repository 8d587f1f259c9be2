"""Models: sizes, layers, heads, and weights from elsewhere."""

from linformer_jax.models.config import ModelConfig
from linformer_jax.models.encoder import (
  Block,
  Encoder,
  MaskedLM,
  num_parameters,
)

__all__ = ["Block", "Encoder", "MaskedLM", "ModelConfig", "num_parameters"]

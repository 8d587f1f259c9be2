"""Models: configs, encoder layers, output heads and pretrained weights."""

from linformer_jax.models.config import ModelConfig
from linformer_jax.models.encoder import Block, Encoder
from linformer_jax.models.heads import (
  CausalLM,
  Classifier,
  MaskedLM,
  Matcher,
  TokenEncoder,
  num_parameters,
)

__all__ = [
  "Block",
  "CausalLM",
  "Classifier",
  "Encoder",
  "MaskedLM",
  "Matcher",
  "ModelConfig",
  "TokenEncoder",
  "num_parameters",
]

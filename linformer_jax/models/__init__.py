"""Models: configs, encoder layers, output heads and pretrained weights."""

from linformer_jax.models.cache import extend_block, init_cache
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
from linformer_jax.models.seq2seq import EncoderDecoder

__all__ = [
  "Block",
  "CausalLM",
  "Classifier",
  "Encoder",
  "EncoderDecoder",
  "MaskedLM",
  "Matcher",
  "ModelConfig",
  "TokenEncoder",
  "extend_block",
  "init_cache",
  "num_parameters",
]

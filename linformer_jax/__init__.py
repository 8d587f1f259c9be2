"""Linformer in JAX/Flax: self-attention with linear complexity."""

from linformer_jax.attention import (
  LinformerSelfAttention,
  SoftmaxSelfAttention,
)
from linformer_jax.model import Encoder, MaskedLM, ModelConfig

__version__ = "0.1.0"
__all__ = [
  "Encoder",
  "LinformerSelfAttention",
  "MaskedLM",
  "ModelConfig",
  "SoftmaxSelfAttention",
]

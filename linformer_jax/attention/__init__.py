"""Attention whose keys and values are projected along the sequence, and others.

Axes have one letter each, here and in every einsum of the package:

  B batch, N length (of queries or memory), K projected length,
  H heads, D head_dim, M embed, F mlp, V vocab; W = N / K is the window of the
  pooling and convolution projections.

Linformer (arXiv 2006.04768, equation 7): head_i = softmax(Q_i (E_i K_i)^T /
sqrt(D)) F_i V_i with E_i, F_i [K, N], so a layer costs O(N K), not O(N^2).

To add an attention, write a file with a `heads.MultiHeadAttention` and an
`AttentionConfig`, and add the config to `ATTENTIONS`.
"""

from linformer_jax.attention.adamra import AdaMRAConfig, AdaMRASelfAttention
from linformer_jax.attention.base import AttentionConfig, Sizes
from linformer_jax.attention.causal_linformer import (
  CausalLinformerSelfAttention,
)
from linformer_jax.attention.causal_linformer_config import (
  CausalLinformerConfig,
)
from linformer_jax.attention.cosformer import (
  CosformerConfig,
  CosformerSelfAttention,
)
from linformer_jax.attention.fnet import FNetConfig, FNetMixing
from linformer_jax.attention.functional import projected_attention
from linformer_jax.attention.groups import (
  ATTENTIONS,
  DEFAULT,
  fields,
  from_fields,
  to_fields,
)
from linformer_jax.attention.heads import MultiHeadAttention
from linformer_jax.attention.linear import LinearConfig, LinearSelfAttention
from linformer_jax.attention.linformer import LinformerSelfAttention
from linformer_jax.attention.linformer_config import LinformerConfig
from linformer_jax.attention.local import LocalConfig, LocalSelfAttention
from linformer_jax.attention.luna import LunaConfig, LunaSelfAttention
from linformer_jax.attention.nystrom import NystromConfig, NystromSelfAttention
from linformer_jax.attention.performer import (
  PerformerConfig,
  PerformerSelfAttention,
)
from linformer_jax.attention.projection import Projection, project_sequence
from linformer_jax.attention.softmax import SoftmaxConfig, SoftmaxSelfAttention
from linformer_jax.attention.transformer_ls import (
  TransformerLSConfig,
  TransformerLSSelfAttention,
)

__all__ = [
  "ATTENTIONS",
  "DEFAULT",
  "AdaMRAConfig",
  "AdaMRASelfAttention",
  "AttentionConfig",
  "CausalLinformerConfig",
  "CausalLinformerSelfAttention",
  "CosformerConfig",
  "CosformerSelfAttention",
  "FNetConfig",
  "FNetMixing",
  "LinearConfig",
  "LinearSelfAttention",
  "LinformerConfig",
  "LinformerSelfAttention",
  "LocalConfig",
  "LocalSelfAttention",
  "LunaConfig",
  "LunaSelfAttention",
  "MultiHeadAttention",
  "NystromConfig",
  "NystromSelfAttention",
  "PerformerConfig",
  "PerformerSelfAttention",
  "Projection",
  "Sizes",
  "SoftmaxConfig",
  "SoftmaxSelfAttention",
  "TransformerLSConfig",
  "TransformerLSSelfAttention",
  "fields",
  "from_fields",
  "project_sequence",
  "projected_attention",
  "to_fields",
]

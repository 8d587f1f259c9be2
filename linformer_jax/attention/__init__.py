"""Attention whose keys and values are projected along the sequence.

Axes have one letter each, here and in every einsum of the package:

  B batch, N length (of queries or memory), K projected length,
  H heads, D head_dim, M embed, F mlp, V vocab; W = N / K is the window of the
  pooling and convolution projections.

Linformer (arXiv 2006.04768, equation 7): head_i = softmax(Q_i (E_i K_i)^T /
sqrt(D)) F_i V_i with E_i, F_i [K, N], so a layer costs O(N K), not O(N^2).
"""

from linformer_jax.attention.functional import projected_attention
from linformer_jax.attention.linformer import LinformerSelfAttention
from linformer_jax.attention.projection import Projection, project_sequence
from linformer_jax.attention.softmax import SoftmaxSelfAttention

__all__ = [
  "LinformerSelfAttention",
  "Projection",
  "SoftmaxSelfAttention",
  "project_sequence",
  "projected_attention",
]

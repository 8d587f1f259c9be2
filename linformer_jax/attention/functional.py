"""Attention as a pure function, for code that has queries, keys and values."""

import jax

from linformer_jax.attention import masks, ops
from linformer_jax.parallel import blocks


def projected_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.Array | None = None,
  *,
  query_block: int = 0,
  implementation: str = "xla",
  dropout_rate: float = 0.0,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """softmax(q k^T / sqrt(D)) v (arXiv 2006.04768, equation 7).

  For Linformer K << N; with K = N unprojected keys and values this is plain
  softmax attention.

  Args:
    q: queries [B, N, H, D].
    k: keys [B, K, H, D].
    v: values [B, K, H, D].
    mask: bool or integers 0 and 1 [B, K], True at slots to attend to, or None;
      see `masks.check`. A query with no such slot returns zero. Masked slots
      have weight zero, but k and v must be finite there: zero times NaN is NaN.
    query_block: process queries in blocks of this size; 0 is off. Scores then
      take B H query_block K floats, not B H N K, in the backward pass too,
      which recomputes them.
    implementation: 'xla', einsum and softmax as XLA fuses them; 'flash', which
      also blocks the keys, recomputes the scores in the backward pass and loops
      over heads on a CPU; 'cpu', the same with that loop everywhere;
      'pallas_tpu', a kernel for TPUs that keeps the slots in vector memory, in
      float32 or bfloat16; 'cudnn', a fused GPU kernel that needs bfloat16 or
      float16.
    dropout_rate: dropout on the attention weights; only 'xla' has it.
    dropout_key: a random key, needed with dropout.

  Returns:
    [B, N, H, D] in v's dtype; scores and softmax are float32.

  Raises:
    ValueError: for an unknown implementation, or one that has no dropout or not
      this dtype; for a mask of the wrong shape or dtype (such as an additive
      mask).
  """
  ops.check(implementation, q.dtype, dropout_rate=dropout_rate)
  mask = masks.check(mask, k.shape[:2])

  def attend(q, start, summary, variables, key):
    del start, variables
    return ops.attend(
      q,
      *summary,
      dropout=(dropout_rate, key) if dropout_rate else None,
      recompute=bool(query_block),
      implementation=implementation,
    )

  summary = (k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
  return blocks.in_blocks(attend, q, query_block, summary, key=dropout_key)

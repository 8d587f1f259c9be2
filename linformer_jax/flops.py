"""Analytic FLOPs of the model, two per multiply-add, matrix products only.

Axis letters as in `linformer_jax.attention`: N length, K projected, H heads,
D head_dim, M embed = H * D, F mlp, V vocab. These are the FLOPs the computation
needs, not those a compiler executes; model FLOPs utilization (MFU) divides them
by time and by the device's peak.
"""

# Published dense bfloat16 peaks in FLOP/s per chip, by
# `jax.Device.device_kind`. float32 peaks are lower.
PEAK_FLOPS = {
  "TPU v2": 45e12,
  "TPU v3": 123e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


def encoder(model, n: int) -> int:
  """Forward FLOPs of an encoder's layers on one sequence of n tokens.

  Args:
    model: a `linformer_jax.ModelConfig`.
    n: length of the sequence.
  """
  mlp = 4 * n * model.embed_dim * model.mlp_dim
  return sum(layer.flops(model.sizes(layer), n) + mlp for layer in model.layers)


def token_head(model, positions: int, dense: bool = False) -> int:
  """Forward FLOPs of the vocabulary logits at some positions of a sequence.

  Args:
    model: a `linformer_jax.ModelConfig`.
    positions: number of positions.
    dense: whether an M x M dense layer precedes the logits.
  """
  m = model.embed_dim
  return positions * (2 * m * m * dense + 2 * m * model.vocab_size)

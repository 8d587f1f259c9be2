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


def keys_and_values(
  order: str,
  sharing: str,
  n: int,
  k: int,
  m: int,
  h: int,
  memory_m: int = 0,
) -> int:
  """FLOPs of the keys and values of one sequence with dense E and F.

  Args:
    order: 'before' applies E and F to X and then W_K and W_V; 'after' applies
      W_K and W_V first, as equation 7 of arXiv 2006.04768 is written.
    sharing: 'none', 'headwise', 'key_value' or 'layerwise'. The last two have
      E = F, so 'before' projects X once.
    n: length of the memory.
    k: projected length.
    m: width of the keys and values, all heads together.
    h: number of heads.
    memory_m: width of the memory; 0 for m.
  """
  memory_m = memory_m or m
  if order == "after":
    return 4 * n * memory_m * m + 4 * n * k * m
  once = sharing in ("key_value", "layerwise")
  matrices = (1 if once else 2) * (h if sharing == "none" else 1)
  return 2 * matrices * n * k * memory_m + 4 * k * memory_m * m


def cheaper_order(
  sharing: str, n: int, k: int, m: int, h: int, memory_m: int = 0
) -> str:
  """Returns the contraction order with fewer FLOPs: 'before' or 'after'."""
  sizes = (sharing, n, k, m, h, memory_m)
  before = keys_and_values("before", *sizes)
  return "before" if before <= keys_and_values("after", *sizes) else "after"


def attention(
  kind: str,
  projection: str,
  sharing: str,
  n: int,
  k: int,
  m: int,
  h: int,
  local_window: int = 0,
) -> int:
  """Forward FLOPs of one attention layer on one sequence of n tokens.

  Counts query and output projections, keys and values, scores and weighted sum.
  With a `local_window`, each query also attends to 2 * local_window + 1 nearby
  rows, and all rows go through W_K and W_V.
  """
  query_and_output = 2 * (2 * n * m * m)
  if kind == "softmax":
    return query_and_output + 4 * n * m * m + 4 * n * n * m
  scores = 4 * n * k * m
  if local_window:
    scores += 4 * n * (2 * local_window + 1) * m
  if projection == "convolution":  # a D x D kernel per window row and head
    pool = 4 * n * m * (m // h)
    return query_and_output + 4 * n * m * m + pool + scores
  if projection == "max_pool":
    return query_and_output + 4 * n * m * m + scores
  if projection == "mean_pool":  # before W_K and W_V; sums do not count
    rows = n if local_window else k
    return query_and_output + 4 * rows * m * m + scores
  order = "after" if local_window else cheaper_order(sharing, n, k, m, h)
  return query_and_output + keys_and_values(order, sharing, n, k, m, h) + scores


def encoder(model, n: int) -> int:
  """Forward FLOPs of an encoder's layers on one sequence of n tokens.

  Args:
    model: a `linformer_jax.ModelConfig`.
    n: length of the sequence.
  """
  m = model.embed_dim
  linformer = model.attention == "linformer"
  windowed = linformer and model.projection not in ("linear", "random")

  def slots(k):  # with a windowed kind, a short input fills only the first
    return -(-n // (model.max_length // k)) if windowed else k

  kind, sharing = (model.projection, model.sharing) if linformer else ("", "")
  return sum(
    attention(
      model.attention,
      kind,
      sharing,
      n,
      slots(k),
      m,
      model.num_heads,
      model.local_window,
    )
    + 4 * n * m * model.mlp_dim
    for k in (model.projected_lengths if linformer else [0] * model.num_layers)
  )


def token_head(model, positions: int, dense: bool = False) -> int:
  """Forward FLOPs of the vocabulary logits at some positions of a sequence.

  Args:
    model: a `linformer_jax.ModelConfig`.
    positions: number of positions.
    dense: whether an M x M dense layer precedes the logits.
  """
  m = model.embed_dim
  return positions * (2 * m * m * dense + 2 * m * model.vocab_size)

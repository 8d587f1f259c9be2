"""Attention by the fused cuDNN kernel, on GPUs."""

import jax
import jax.numpy as jnp


def attend(q, k, v, mask=None):
  """softmax(q k^T) v; arguments as for `xla.attend`.

  Raises:
    ValueError: if there is no cuDNN.
  """
  if mask is not None:  # bool [B, H or 1, N, K]
    shape = (q.shape[0], 1, q.shape[1], k.shape[2])
    mask = jnp.broadcast_to(mask[:, None, None], shape)
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
  try:
    return jax.nn.dot_product_attention(
      q, k, v, mask=mask, scale=1.0, implementation="cudnn"
    )
  except RuntimeError as error:
    reason = str(error).rstrip(".")
    raise ValueError(
      f"implementation 'cudnn' needs an NVIDIA GPU ({reason}): use 'xla' or "
      "'flash'"
    ) from error

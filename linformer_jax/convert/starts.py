"""What a conversion reads off the attention of a model on texts."""

import jax
import jax.numpy as jnp

from linformer_jax.convert import distill
from linformer_jax.convert import texts as texts_lib
from linformer_jax.models import convert as convert_lib
from linformer_jax.models import fits
from linformer_jax.run import report

ON_TEXTS = ("fitted", "svd")  # starts that need texts
STARTS = (convert_lib.ADAPTIVE, *convert_lib.STARTS, *ON_TEXTS)
_FITTED, _RANKED = 32, 8  # texts


def automatic(
  original: distill.Encoder, texts: texts_lib.Texts, k: int
) -> list[int]:
  """Returns the layers whose attention keeps 90% of its energy at rank K."""

  @jax.jit
  def measure(tokens, mask):
    heads = original.heads(tokens, mask)
    matrices = [distill.attention_of(x, mask) for x in heads]
    return jnp.stack([jnp.mean(fits.ranks(x)) for x in matrices])

  ranks = measure(texts.tokens[:_RANKED], texts.mask[:_RANKED])
  told = ", ".join(f"{rank:.0f}" for rank in ranks)
  report.say(f"ranks that keep 90% of the energy, by layer: {told}")
  chosen = [i for i, rank in enumerate(ranks) if rank <= k]
  if not chosen:
    raise ValueError(f"--layers=auto: no layer has a rank of {k} or less")
  return chosen


def on_texts(
  start: str,
  original: distill.Encoder,
  texts: texts_lib.Texts,
  k: int,
  layers: list[int],
) -> dict[int, tuple[jax.Array, jax.Array]]:
  """Returns E and F [H, K, N] of layers by a start that needs texts.

  'svd' has the leading right singular vectors of each head's attention,
  averaged over texts, as both. 'fitted' leaves E at the window means and fits
  F to the head's output; see `fits`.
  """
  texts = texts[:_FITTED]
  n, width = original.config.max_length, texts.tokens.shape[1]
  pool = convert_lib.projections("mean_pool", original.config, k, layers)
  seen = jax.jit(original.heads)
  parts = [seen(part.tokens, part.mask) for part in texts.batches()]
  mask = jnp.asarray(texts.mask)

  @jax.jit
  def directions(q, k_rows):
    mean = jax.lax.map(
      lambda x: jnp.mean(fits.weights(*x, mask, mask), 0), (q, k_rows)
    )
    return fits.directions(mean, min(k, width))

  @jax.jit
  def fitted(e, q, k_rows, v):
    return jax.lax.map(
      lambda x: fits.fit_values(x[0], x[0], *x[1:], mask), (e, q, k_rows, v)
    )

  found = {}
  for i in layers:
    q, k_rows, v = (
      jnp.concatenate([part[i][j] for part in parts], axis=1) for j in range(3)
    )
    e = pool[i][0]
    if start == "svd":
      rows = directions(q, k_rows)
      grown = (0, 0), (0, k - rows.shape[1]), (0, n - width)
      found[i] = (jnp.pad(rows, grown),) * 2
    else:
      f = fitted(e[..., :width], q, k_rows, v)
      found[i] = e, e.at[..., :width].set(f)
    report.say(f"layer {i}: {start}")
  return found

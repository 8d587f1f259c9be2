"""E and F of a head from its attention on texts.

A head is softmax(Q K^T / sqrt(D)) V. Its keys and values come without their
biases: a key's adds the same to all scores of a query, and a value's passes
through any attention, so neither matters for E and F. Rows of padding are
zero in the keys and values, and False in a mask [B, N].
"""

import functools

import jax
import jax.numpy as jnp

STEPS = 20  # of conjugate gradients


def weights(q, k, mask=None, slots=None) -> jax.Array:
  """Returns softmax(q k^T / sqrt(D)) [B, N, K], with rows of padding zero.

  Args:
    q: queries [B, N, D].
    k: keys [B, K, D].
    mask: bool [B, N], True at real queries, or None.
    slots: bool [B, K], True at real keys, or None.
  """
  scores = jnp.einsum("bnd,bkd->bnk", q, k) * q.shape[-1] ** -0.5
  if slots is not None:
    scores = jnp.where(slots[:, None], scores, jnp.finfo(scores.dtype).min)
  found = jax.nn.softmax(scores, axis=-1)
  return found if mask is None else jnp.where(mask[..., None], found, 0)


def error(e, f, q, k, v, mask=None) -> jax.Array:
  """Returns the sum of squares of a head's output less its exact one.

  Args:
    e, f: [K, N].
    q, k, v: [B, N, D].
    mask: bool [B, N], or None.
  """
  exact = weights(q, k, mask, mask) @ v
  return jnp.sum((weights(q, e @ k, mask) @ (f @ v) - exact) ** 2)


@functools.partial(jax.jit, static_argnames="steps")
def fit_values(e, f, q, k, v, mask=None, steps: int = STEPS) -> jax.Array:
  """Returns the F [K, N] that is best for an E, by least squares.

  With P' = softmax(Q (E K)^T / sqrt(D)) the output P' F V is linear in F, and
  the least squares over all texts b obey the normal equations

      sum_b P'_b^T P'_b F V_b V_b^T = sum_b P'_b^T O_b V_b^T,

  whose matrix, K N x K N, is never formed: conjugate gradients apply it. They
  begin at `f`, and no step increases the error. Few texts leave F undetermined;
  the steps then stay near `f`, and few of them keep F from following the texts.

  Args:
    e, f: E, and the F to begin at, [K, N].
    q, k, v, mask: see `error`.
    steps: of conjugate gradients.
  """
  p = weights(q, e @ k, mask)
  exact = weights(q, k, mask, mask) @ v
  gram = jnp.einsum("bnk,bnj->bkj", p, p)
  wanted = jnp.einsum("bnk,bnd,bmd->km", p, exact, v, optimize="optimal")

  def normal(f):
    return jnp.einsum("bkj,bjd,bmd->km", gram, f @ v, v, optimize="optimal")

  return jax.scipy.sparse.linalg.cg(normal, wanted, f, tol=0, maxiter=steps)[0]


def directions(mean, k: int) -> jax.Array:
  """Returns the K leading right singular vectors [..., K, N] of P.

  They are scaled by sqrt(K / N), the norm of the rows of window means, and have
  a sum that is not negative.

  Args:
    mean: attention matrices [..., N, N], averaged over texts.
    k: K.
  """
  rows = jnp.linalg.svd(mean)[2][..., :k, :]
  sign = jnp.where(jnp.sum(rows, -1, keepdims=True) < 0, -1, 1)
  return sign * rows * (k / mean.shape[-1]) ** 0.5


def ranks(matrices, share: float = 0.9) -> jax.Array:
  """Returns the ranks at which matrices keep a share of their energy.

  Args:
    matrices: [..., N, N].
    share: of the sum of the squares of the singular values.

  Returns:
    int32 [...]: the least r whose best approximation of rank r keeps it.
  """
  gram = jnp.einsum("...nm,...km->...nk", matrices, matrices)
  energy = jnp.linalg.eigvalsh(gram)[..., ::-1]
  kept = jnp.cumsum(energy, axis=-1)
  return jnp.sum(kept < share * kept[..., -1:], axis=-1) + 1

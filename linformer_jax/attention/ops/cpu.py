"""What makes attention fast on a CPU, and nothing else.

A CPU likes scores that fit in cache and matrix products without transposes.
"""

import jax
import jax.numpy as jnp


def one_by_one(function, rows, slots):
  """Does what `flash.together` does, for one head of one sequence at a time."""
  rows, slots = jax.tree.map(jnp.asarray, (rows, slots))
  b, n, h, _ = rows[0].shape

  def head(x, i):  # rows lie [B, N, H, D], slots [B, H, K, ...]
    at, size = (i // h, 0, i % h, 0), (1, n, 1, x.shape[-1])
    return jax.lax.dynamic_slice(x, at, size).reshape(n, -1)

  def step(row_out, i):
    part, slot_out = function(
      *(head(x, i) for x in rows),
      *jax.tree.map(lambda x: x[i // h, i % h], slots),
    )
    row_out = jax.tree.map(
      lambda whole, x: jax.lax.dynamic_update_slice(
        whole, x[None, :, None], (i // h, 0, i % h, 0)
      ),
      row_out,
      part,
    )
    return row_out, slot_out

  one = jax.eval_shape(
    function,
    *(jax.ShapeDtypeStruct((n, x.shape[-1]), x.dtype) for x in rows),
    *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), slots),
  )
  empty = jax.tree.map(
    lambda x: jnp.zeros((b, n, h, x.shape[-1]), x.dtype), one[0]
  )
  row_out, slot_out = jax.lax.scan(step, empty, jnp.arange(b * h), unroll=4)
  return row_out, jax.tree.map(
    lambda x: x.reshape(b, h, *x.shape[1:]), slot_out
  )


def project(e, x):
  """E X for E [K, N] and x [B, N, M]: [B, K, M].

  On a CPU a batched product avoids a transpose of x; elsewhere repeating E for
  each sequence is a waste.
  """
  return jax.lax.platform_dependent(
    e,
    x,
    cpu=lambda e, x: jnp.broadcast_to(e, (len(x), *e.shape)) @ x,
    default=lambda e, x: jnp.einsum("kn,bnm->bkm", e, x),
  )

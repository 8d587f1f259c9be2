"""Products with parameters whose gradients devices may sum in float32.

The gradient of a kernel is a matrix product over the rows of a device, and
devices sum what it returns. To cast a bfloat16 gradient to float32 afterward,
even before a sharding constraint, leaves the sum in bfloat16. Here the product
of bfloat16 factors returns float32.
"""

import functools

import jax
import jax.numpy as jnp

from linformer_jax.parallel import layout


def cast(weights: jax.Array, dtype) -> jax.Array:
  """Casts float32 parameters, or leaves that to `einsum` and `add`.

  They do it if devices sum gradients in float32; see `layout.on_mesh`.
  """
  return weights if layout.float32_gradients() else weights.astype(dtype)


def einsum(rows: str, x: jax.Array, weights: jax.Array, out=None) -> jax.Array:
  """Returns an einsum of x and parameters.

  Args:
    rows: subscripts of x, the weights and the result, such as 'bnm,mf->bnf'.
      Each letter is in two of them or in all.
    x: in the dtype of the product.
    weights: as returned by `cast`.
    out: dtype of the result; None for that of x.
  """
  if weights.dtype == x.dtype:
    return jnp.einsum(rows, x, weights, preferred_element_type=out)
  return _einsum(rows, out, x, weights)


def add(y: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns y plus a bias of its last axes, as returned by `cast`."""
  if bias.dtype != y.dtype:  # the gradient is cast before rows are summed
    bias = jnp.broadcast_to(bias, y.shape).astype(y.dtype)
  return y + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _einsum(rows, out, x, weights):
  return einsum(rows, x, weights.astype(x.dtype), out)


def _forward(rows, out, x, weights):
  weights = weights.astype(x.dtype)
  return einsum(rows, x, weights, out), (x, weights)


def _backward(rows, out, saved, dy):
  x, weights = saved
  to_x = jax.linear_transpose(lambda x: einsum(rows, x, weights, out), x)
  of_x, of_weights, of_y = rows.replace("->", ",").split(",")
  to_weights = f"{of_x},{of_y}->{of_weights}"
  dweights = jnp.einsum(to_weights, x, dy, preferred_element_type=jnp.float32)
  return *to_x(dy), dweights


_einsum.defvjp(_forward, _backward)

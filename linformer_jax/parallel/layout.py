"""How arrays lie on a device mesh, where one is in use.

Modules name logical axes ('batch', 'sequence', 'heads', ...), and `on_mesh`
says over which mesh axes those are spread. Outside of it nothing here does
anything, so that a module runs anywhere as it is.
"""

import contextlib
import contextvars
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_IN_USE = contextvars.ContextVar("mesh and rules", default=None)


@contextlib.contextmanager
def on_mesh(mesh: Mesh, rules: Mapping[str, str | tuple[str, ...]]):
  """While functions are traced: spreads their arrays over a mesh.

  Args:
    mesh: the devices.
    rules: mesh axes by logical axis; an axis without a rule is not divided.
  """
  token = _IN_USE.set((mesh, rules) if mesh.size > 1 else None)
  try:
    yield
  finally:
    _IN_USE.reset(token)


def spec(rules, *names: str | None) -> PartitionSpec:
  """Logical axes of an array, None for one that is not divided, as a spec."""
  return PartitionSpec(*(rules.get(name) for name in names))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """The same array, spread along its first axes as their names say."""
  if _IN_USE.get() is None:
    return x
  mesh, rules = _IN_USE.get()
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(mesh, spec(rules, *names))
  )


def shards(name: str) -> int:
  """Parts that a logical axis is divided into."""
  if _IN_USE.get() is None:
    return 1
  mesh, rules = _IN_USE.get()
  return ways(mesh, rules.get(name) or ())


def ways(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
  """Parts that one mesh axis, or several, divide something into."""
  axes = (axes,) if isinstance(axes, str) else axes
  return math.prod(mesh.shape[axis] for axis in axes)


def apart(function, x, own=(), whole=(), key=None) -> jax.Array:
  """function(x, own, whole, key), on each device by itself.

  In the backward pass a device adds up gradients of copies of its own, and sums
  over devices are made once, however often a loop in `function` adds to them.

  Args:
    function: of rows [b, n, ...], trees and a key; each row for itself.
    x: [B, N, ...], sequences of positions.
    own: tree of arrays [B, ...] that belong to the sequences.
    whole: tree of arrays that belong to all.
    key: a random key, of which each device gets another one, or None.
  """
  if _IN_USE.get() is None:
    return function(x, own, whole, key)
  mesh, rules = _IN_USE.get()
  names = ("batch", "sequence")
  parts = tuple(shards(name) for name in names)  # these axes come in front

  def spread(x):
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    at = NamedSharding(mesh, PartitionSpec(*spec(rules, *names), *free))
    return jax.lax.with_sharding_constraint(x, at)

  def copies(x):  # of each sequence for all that divide it
    x = x.reshape(parts[0], 1, -1, *x.shape[1:])
    return spread(jnp.broadcast_to(x, (*parts, *x.shape[2:])))

  batch, length, *rest = x.shape
  x = x.reshape(parts[0], -1, parts[1], length // parts[1], *rest)
  x = spread(x.swapaxes(1, 2))
  own = jax.tree.map(copies, own)
  whole = jax.tree.map(
    lambda x: spread(jnp.broadcast_to(x, (*parts, *x.shape))), whole
  )
  keys = None if key is None else jax.random.split(key, parts)
  mapped = (0, 0, 0, None if key is None else 0)
  for name in reversed(names):
    axes = rules.get(name) or None
    function = jax.vmap(function, mapped, spmd_axis_name=axes)
  inner = {name: axes for name, axes in rules.items() if name not in names}
  token = _IN_USE.set((mesh, inner))
  try:
    out = spread(function(x, own, whole, keys)).swapaxes(1, 2)
  finally:
    _IN_USE.reset(token)
  return constrain(out.reshape(batch, length, *out.shape[4:]), *names)


def per_device(function, arguments, out):
  """A function that each device applies to its own part of the arrays.

  Args:
    function: of arrays (or None), to one array.
    arguments: for each of them the names of its axes.
    out: the names of the result's.
  """
  if _IN_USE.get() is None:
    return function
  mesh, rules = _IN_USE.get()
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=tuple(spec(rules, *names) for names in arguments),
    out_specs=spec(rules, *out),
    check_vma=False,
  )

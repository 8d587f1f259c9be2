"""Shards arrays over a device mesh, if one is in use.

Modules name logical axes ('batch', 'sequence', 'heads', ...); `on_mesh` maps
them to mesh axes. Outside `on_mesh` these functions do nothing, so modules run
unchanged on one device.
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
  """Shards the arrays of functions traced in this context over a mesh.

  Args:
    mesh: the devices.
    rules: mesh axes by logical axis; an axis without a rule is not sharded.
  """
  token = _IN_USE.set((mesh, rules) if mesh.size > 1 else None)
  try:
    yield
  finally:
    _IN_USE.reset(token)


def spec(rules, *names: str | None) -> PartitionSpec:
  """Returns the spec of logical axes; None is an axis that is not sharded."""
  return PartitionSpec(*(rules.get(name) for name in names))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Shards the leading axes of x by their logical names."""
  if _IN_USE.get() is None:
    return x
  mesh, rules = _IN_USE.get()
  return jax.lax.with_sharding_constraint(
    x, NamedSharding(mesh, spec(rules, *names))
  )


def shards(name: str) -> int:
  """Returns the number of shards of a logical axis."""
  if _IN_USE.get() is None:
    return 1
  mesh, rules = _IN_USE.get()
  return ways(mesh, rules.get(name) or ())


def ways(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
  """Returns the number of shards over one mesh axis or several."""
  axes = (axes,) if isinstance(axes, str) else axes
  return math.prod(mesh.shape[axis] for axis in axes)


def apart(function, x, own=(), whole=(), key=None) -> jax.Array:
  """Applies a position-wise function to each device's shard independently.

  Each device accumulates gradients of its own copies in the backward pass, so
  gradients are all-reduced once, not at every step of a loop in `function`.

  Args:
    function: (x [b, n, ...], own, whole, key) -> [b, n, ...]; acts on each
      position independently.
    x: [B, N, ...].
    own: tree of arrays [B, ...], such as keys.
    whole: tree of arrays that all sequences use, such as parameters.
    key: a random key, split into one key per shard, or None.
  """
  if _IN_USE.get() is None:
    return function(x, own, whole, key)
  mesh, rules = _IN_USE.get()
  names = ("batch", "sequence")
  parts = tuple(shards(name) for name in names)  # the leading axes below

  def spread(x):
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    at = NamedSharding(mesh, PartitionSpec(*spec(rules, *names), *free))
    return jax.lax.with_sharding_constraint(x, at)

  def copies(x):  # one per shard of the sequence axis
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
  """Returns `function` under shard_map: each device applies it to its shards.

  Args:
    function: takes arrays or None and returns one array.
    arguments: logical axes of each argument.
    out: logical axes of the result.
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

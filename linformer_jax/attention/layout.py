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

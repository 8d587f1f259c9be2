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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_IN_USE = contextvars.ContextVar("mesh and rules", default=None)
_KIND = contextvars.ContextVar("device kind", default=None)
_FLOAT32 = contextvars.ContextVar("float32 gradients", default=False)


@contextlib.contextmanager
def on_mesh(
  mesh: Mesh,
  rules: Mapping[str, str | tuple[str, ...]],
  float32_gradients: bool = False,
):
  """Shards the arrays of functions traced in this context over a mesh.

  Args:
    mesh: the devices.
    rules: mesh axes by logical axis; an axis without a rule is not sharded.
    float32_gradients: see `gradients`.
  """
  token = _IN_USE.set((mesh, rules) if mesh.size > 1 else None)
  before = _FLOAT32.set(float32_gradients and mesh.size > 1)
  kind = _KIND.set(mesh.devices.flat[0].device_kind)
  try:
    yield
  finally:
    _KIND.reset(kind)
    _FLOAT32.reset(before)
    _IN_USE.reset(token)


def float32_gradients() -> bool:
  """Returns whether devices sum gradients in float32; see `gradients`."""
  return _FLOAT32.get()


def device_kind() -> str:
  """Returns the kind of the devices of the mesh, or of JAX's first one."""
  return _KIND.get() or jax.devices()[0].device_kind


def spec(rules, *names: str | None) -> PartitionSpec:
  """Returns the spec of logical axes; None is an axis that is not sharded."""
  return PartitionSpec(*(rules.get(name) for name in names))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Shards the leading axes of x by their logical names."""
  if _IN_USE.get() is None:
    return x
  mesh, rules = _IN_USE.get()
  wanted = spec(rules, *names)
  if mesh is None:  # inside `per_device`, the mesh is that of the context
    return jax.lax.with_sharding_constraint(x, wanted) if any(wanted) else x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, wanted))


def shards(name: str) -> int:
  """Returns the number of shards of a logical axis."""
  if _IN_USE.get() is None:
    return 1
  mesh, rules = _IN_USE.get()
  if mesh is None:  # inside `per_device`
    mesh = jax.sharding.get_abstract_mesh()
  return ways(mesh, rules.get(name) or ())


def ways(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
  """Returns the number of shards over one mesh axis or several."""
  axes = (axes,) if isinstance(axes, str) else axes
  return math.prod(mesh.shape[axis] for axis in axes)


def axes(name: str) -> str | tuple[str, ...]:
  """Returns the mesh axes of a logical axis."""
  return _IN_USE.get()[1][name]


def per_device(function, arguments, out, over=None):
  """Returns `function` under shard_map: each device applies it to its shards.

  Args:
    function: takes trees of arrays or None and returns one.
    arguments: logical axes of each argument, or a tree of such.
    out: logical axes of the result.
    over: logical axes to map over; the compiler shards the other axes in the
      function as it does outside. None for all.
  """
  if _IN_USE.get() is None:
    return function
  mesh, rules = _IN_USE.get()
  mapped = {name: rules[name] for name in over or rules if rules.get(name)}
  names = set().union(
    *((axes,) if isinstance(axes, str) else axes for axes in mapped.values())
  )
  left = {
    name: axes
    for name, axes in rules.items()
    if not names & set((axes,) if isinstance(axes, str) else axes)
  }

  def local(*arguments):
    token = _IN_USE.set((None, left))
    try:
      return function(*arguments)
    finally:
      _IN_USE.reset(token)

  def to_spec(axes):
    return spec(mapped, *axes)

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=jax.tree.map(to_spec, tuple(arguments), is_leaf=_is_axes),
    out_specs=to_spec(out),
    axis_names=names,
    check_vma=False,
  )


def _is_axes(node):
  return isinstance(node, tuple) and all(
    name is None or isinstance(name, str) for name in node
  )

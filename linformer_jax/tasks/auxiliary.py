"""Auxiliary losses: what layers add to the loss in training.

A layer sows a scalar into the collection 'losses', scaled as it should count,
such as a router's balance. It is a mean over the sequences at hand, so devices
that share a batch sow what one device does. The parts of an accumulated batch
weigh as their targets do; with as many targets in each, as in masked language
modeling, the parts add up to the whole batch too.
"""

import contextlib
import contextvars

import jax
import jax.numpy as jnp

COLLECTION = "losses"
_SOWN = contextvars.ContextVar("auxiliary losses", default=None)


@contextlib.contextmanager
def collected():
  """Yields a list, to which `apply` adds what layers sow in this context."""
  token = _SOWN.set([])
  try:
    yield _SOWN.get()
  finally:
    _SOWN.reset(token)


def apply(module, variables, *arguments, **keywords):
  """Returns `module.apply`, with auxiliary losses in a `collected` context."""
  sown = _SOWN.get()
  if sown is None:
    return module.apply(variables, *arguments, **keywords)
  out, found = module.apply(
    variables, *arguments, mutable=[COLLECTION], **keywords
  )
  sown += jax.tree.leaves(found)
  return out


def sums_of(task, variables, batch, key=None) -> dict[str, jax.Array]:
  """Returns a task's sums, with 'auxiliary' if any layer sows a loss.

  It is the sum of these losses times the task's 'weight', so it counts beside
  'loss' as both are divided by the weight.
  """
  with collected() as sown:
    sums = task.sums(variables, batch, key)
  if sown:  # each scanned layer has one entry
    sums["auxiliary"] = sums["weight"] * sum(map(jnp.sum, sown))
  return sums

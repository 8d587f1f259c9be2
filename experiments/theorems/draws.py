"""One draw of each theorem, and the statistics over many."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mechanism import cut
from experiments.theorems import bounds, minilm, settings

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The most floats in an array of draws that are made at once.
_AT_ONCE = 2**24


def projection(key, k: int, n: int):
  """Returns R [k, n] with entries N(0, 1/k): E[R^T R] is the identity."""
  return jax.random.normal(key, (k, n)) / k**0.5


def scores(key, rows: int, setting: settings.Setting):
  """Returns scale Q K^T / sqrt(d) [rows, n], with Q and K [., d] Gaussian."""
  q_key, k_key = jax.random.split(key)
  q = jax.random.normal(q_key, (rows, setting.d))
  k = jax.random.normal(k_key, (setting.n, setting.d))
  return setting.scale * q @ k.T / setting.d**0.5


def values(key, columns: int, setting: settings.Setting):
  """Returns V W_V [n, columns], with entries N(0, 1) or N(1, 1)."""
  mean = {"zero_mean": 0.0, "mean_one": 1.0}[setting.values]
  return mean + jax.random.normal(key, (setting.n, columns))


def inputs(keys, rows: int, columns: int, setting, heads=None):
  """Returns scores [rows, n] and V W_V [n, columns].

  They are Gaussian, or those of a head that is drawn from `heads`, which is as
  `minilm.heads` returns it.
  """
  if heads is None:
    return scores(keys[0], rows, setting), values(keys[1], columns, setting)
  (q,), (k,), (v,) = minilm.draw(keys[0], heads, 1, rows)
  chosen = jax.random.permutation(keys[1], setting.d)[:columns]
  return q @ k.T / setting.d**0.5, v[:, chosen]


def theorem1(key, setting: settings.Setting, heads=None) -> dict:
  """Compares P~ = P R^T R with P on one column w of V W_V.

  Returns:
    printed: |P~ w - P w| / |P w|, which the theorem bounds by epsilon.
    supported: |P~ w - P w| / (|P|_F |w|), which follows from the lemma.
    worst_row: the largest |P~_i w - P_i w| / (|P_i| |w|), which the union bound
      over rows covers; at least `supported`.
    rows_over: the share of rows where that exceeds each of `bounds.EPSILONS`.
    zero: |P w| / (|P|_F |w|), the supported error of P~ = 0.
    concentration: |P|_F^2, from 1 for uniform rows to n for one position each.
  """
  p_key, w_key, r_key = jax.random.split(key, 3)
  rows, w = inputs((p_key, w_key), setting.n, 1, setting, heads)
  p, w = jax.nn.softmax(rows), w[:, 0]
  r = projection(r_key, setting.k, setting.n)
  exact = p @ w
  difference = p @ (r.T @ (r @ w) - w)
  rows = jnp.linalg.norm(p, axis=1) * jnp.linalg.norm(w)
  row_errors = jnp.abs(difference) / rows
  unit = jnp.linalg.norm(rows)
  return {
    "printed": jnp.linalg.norm(difference) / jnp.linalg.norm(exact),
    "supported": jnp.linalg.norm(difference) / unit,
    "worst_row": jnp.max(row_errors),
    "rows_over": jnp.mean(
      row_errors[:, None] > jnp.array(bounds.EPSILONS), axis=0
    ),
    "zero": jnp.linalg.norm(exact) / unit,
    "concentration": jnp.sum(p**2),
  }


def best_product(p, v, k: int, root=None):
  """Returns P~ V, with the best P~ of rank k that does not know V.

  Over V = root Z, with independent entries of Z of mean 0 and variance 1 that P
  does not depend on, the mean square of (P~ - P) V is that of the entries of
  (P~ - P) root times the columns. So P~ root is the SVD of P root, cut to rank
  k (Eckart and Young 1936).

  Args:
    p: [n, n].
    v: [n, columns].
    k: the rank.
    root: [n, n], lower triangular; None is the identity.
  """
  if root is None:
    return cut.low_rank(p, k) @ v
  white = jax.scipy.linalg.solve_triangular(root, v, lower=True)
  return cut.low_rank(p @ root, k) @ white


def best_rank(key, setting: settings.Setting, heads=None) -> dict:
  """Compares the product of `best_product` with P V W_V.

  Returns:
    printed, supported, worst_row, zero: as of `theorem1`, for each column.
    row: the error of each row in the unit of theorem 2.
    concentration: as of `theorem1`.
  """
  p_key, v_key, _ = jax.random.split(key, 3)
  rows, v = inputs((p_key, v_key), setting.n, setting.d, setting, heads)
  p, root = jax.nn.softmax(rows), None
  if setting.values == "mean_one":  # The mean counts as a random direction.
    root = jnp.linalg.cholesky(jnp.eye(setting.n) + 1)
  exact = p @ v
  difference = best_product(p, v, setting.k, root) - exact
  norm = jnp.linalg.norm
  rows, columns = norm(p, axis=1), norm(v, axis=0)
  return {
    "printed": norm(difference, axis=0) / norm(exact, axis=0),
    "supported": norm(difference, axis=0) / (norm(p) * columns),
    "worst_row": jnp.max(jnp.abs(difference) / rows[:, None], axis=0) / columns,
    "zero": norm(exact, axis=0) / (norm(p) * columns),
    "row": norm(difference, axis=1) / (rows * norm(v)),
    "concentration": jnp.sum(p**2),
  }


def constructed(w, v, r, delta):
  """Returns softmax(w E^T) F V with E = delta R and F = exp(-delta) R.

  Args:
    w: rows of scores [..., n].
    v: values [n, d].
    r: [k, n].
    delta: a number; 0 is the limit.
  """
  return jax.nn.softmax(delta * (w @ r.T)) @ (jnp.exp(-delta) * (r @ v))


def theorem2(key, setting: settings.Setting, delta, heads=None) -> dict:
  """Measures theorem 2's construction on a row w of scores, and three others.

  The setting's delta is an argument, so that one compiled program serves all.

  Errors are |. - softmax(w) V| / (|softmax(w)| |V|_F), which the theorem bounds
  by epsilon: for the construction, softmax(w) R^T R V ('plain'), zero, and the
  mean of V. `exp` is the same for the unnormalized form,
  |exp(w E^T) F V - exp(w) V| / (|exp(w)| |V|_F). The other statistics:

    relative: |softmax(w E^T) F V - softmax(w) V| / |softmax(w) V|; similarly
      plain_relative and mean_relative.
    step: |exp(-delta) exp(w E^T) - exp(w) R^T| / |exp(w)|, the two sides whose
      products with R V the triangle inequality compares.
    normalisers: sum exp(w E^T) over sum exp(w).
    response: the change of the output from one row of scores to another,
      over the change of softmax(w) V.
  """
  w_key, v_key, r_key = jax.random.split(key, 3)
  both, v = inputs((w_key, v_key), 2, setting.d, setting, heads)
  r = projection(r_key, setting.k, setting.n)
  w, p = both[0], jax.nn.softmax(both)
  exact, out = p @ v, constructed(both, v, r, delta)
  plain = (p[0] @ r.T) @ (r @ v)
  norm = jnp.linalg.norm
  unit = norm(p[0]) * norm(v)
  projected = jnp.exp(delta * (w @ r.T))
  exp_difference = projected @ (jnp.exp(-delta) * (r @ v)) - jnp.exp(w) @ v
  errors = {
    "construction": norm(out[0] - exact[0]),
    "plain": norm(plain - exact[0]),
    "zero": norm(exact[0]),
    "mean": norm(v.mean(0) - exact[0]),
  }
  return {
    **{name: error / unit for name, error in errors.items()},
    "exp": norm(exp_difference) / (norm(jnp.exp(w)) * norm(v)),
    "relative": errors["construction"] / errors["zero"],
    "plain_relative": errors["plain"] / errors["zero"],
    "mean_relative": errors["mean"] / errors["zero"],
    "step": norm(jnp.exp(-delta) * projected - jnp.exp(w) @ r.T)
    / norm(jnp.exp(w)),
    "normalisers": projected.sum() / jnp.exp(w).sum(),
    "response": norm(out[0] - out[1]) / norm(exact[0] - exact[1]),
  }


# The statistics that a theorem bounds by epsilon.
CLAIMS = {
  "theorem1": ("printed", "supported", "worst_row", "zero"),
  "theorem2": ("construction", "plain", "zero", "mean", "exp"),
  "best_rank": ("printed", "supported", "worst_row", "row"),
}


@functools.partial(jax.jit, static_argnames=("setting",))
def many(keys, setting: settings.Setting, delta=None, heads=None) -> dict:
  """Returns the statistics of a draw for each key, several at a time."""
  draw = {
    "theorem1": theorem1,
    "theorem2": functools.partial(theorem2, delta=delta),
    "best_rank": best_rank,
  }[setting.check]
  draw = functools.partial(draw, setting=setting, heads=heads)
  rows = setting.k if setting.check == "theorem2" else setting.n
  size = max(setting.k, rows) * setting.n
  return jax.lax.map(draw, keys, batch_size=max(1, _AT_ONCE // size))


def measure(setting: settings.Setting, heads=None, seed: int = 0) -> dict:
  """Returns quantiles of all statistics, and how often each claim failed.

  Args:
    setting: what to measure.
    heads: as `minilm.heads` returns it; None for Gaussian inputs.
    seed: of all draws.

  Returns:
    quantiles: by statistic, the `QUANTILES` over seeds; also over columns, or
      rows, where a draw has a number for each.
    rms: by claim, the root mean square over the same.
    failures: by claim, how many exceeded each of `bounds.EPSILONS`.
    rows_over: (theorem 1) the mean share of rows that exceed each epsilon.
    lemma_tail: the lemma's bound for one row, by epsilon.
    union_bound: the same for all events together: n rows (theorem 1), or one
      row and d columns (theorem 2, for softmax(w) R^T R V alone).
  """
  keys = jax.random.split(jax.random.key(seed), setting.seeds)
  same_program = dataclasses.replace(setting, delta=None)
  found = jax.tree.map(
    np.asarray, many(keys, same_program, setting.delta, heads)
  )
  record = {}
  if "rows_over" in found:
    record["rows_over"] = found.pop("rows_over").mean(0).tolist()
  claims = CLAIMS[setting.check]
  record |= {
    "quantiles": {
      name: [float(f"{q:.5g}") for q in np.quantile(x, QUANTILES)]
      for name, x in found.items()
    },
    "rms": {
      name: float(f"{np.sqrt(np.mean(found[name] ** 2)):.5g}")
      for name in claims
    },
    "failures": {
      name: [int(np.sum(found[name] > e)) for e in bounds.EPSILONS]
      for name in claims
    },
  }
  if setting.check == "best_rank":  # It has no R.
    return record
  pairs = setting.n if setting.check == "theorem1" else setting.d
  return record | {
    "lemma_tail": [bounds.tail(e, setting.k) for e in bounds.EPSILONS],
    "union_bound": [bounds.union(e, setting.k, pairs) for e in bounds.EPSILONS],
  }

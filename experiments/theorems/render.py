"""Renders the checks of the theorems into their page, and a figure.

  .venv/bin/python -m experiments.theorems.render

Writes experiments/theorems/README.md between its markers, and
results/theorems.png. A test renders again and compares.
"""

import dataclasses
import pathlib

from experiments import page as page_lib
from experiments.theorems import bounds, draws, figure, measure, settings

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "README.md"
MARK = "<!-- experiments/theorems/render.py: {} -->"
METHODS = {
  "fitted_pool": "fitted from mean pool",
  "mean_pool": "mean pool",
  "fitted": "fitted, random start",
  "plain": "P RᵀR",
  "construction": "construction",
  "mean": "mean of V",
}
_WORDS = {
  "zero_mean": "mean 0",
  "mean_one": "mean 1",
  "low_rank": "low rank",
}
_WORDS |= {
  name: f"MiniLM, layer {name.split('_')[-1]}" for name in settings.MINILM
}


def _table(columns: str, rows) -> str:
  names = [name.strip() for name in columns.split("|")]
  lines = ["| " + " | ".join(names) + " |", "|" + "---:|" * len(names)]
  lines += ["| " + " | ".join(row) + " |" for row in rows]
  return "\n".join(lines)


def _number(x) -> str:
  return f"{x:.2g}" if x < 1 else f"{x:.3g}"


def _share(failures, record) -> str:
  return f"{failures / record['seeds']:.1%}"


def median(record, name) -> float:
  """Returns the median of a statistic."""
  return record["quantiles"][name][draws.QUANTILES.index(0.5)]


def yardstick(found, s: settings.Setting, name: str) -> float:
  """Returns the median error of the best P~ of rank s.k; it is P if k >= n."""
  if s.k >= s.n:
    return 0.0
  best = dataclasses.replace(s, check="best_rank", delta=None, seeds=0)
  (record,) = (
    record
    for other, record in found.items()
    if dataclasses.replace(other, seeds=0) == best
  )
  return median(record, name)


def promised() -> str:
  """Returns a table of the theorems' k and the lemma's bounds there."""
  rows = []
  for n in settings.LENGTHS:
    for epsilon in bounds.EPSILONS:
      k = bounds.theorem_k(n, epsilon)
      subspace, rows_term = bounds.theorem2_terms(n, 64, epsilon)
      size = f"**{k}** (more than n)" if k >= n else f"{k}"
      rows.append(
        (
          f"{n:,}",
          f"{epsilon}",
          size,
          f"{bounds.union(epsilon, k, n):.2f}",
          f"{rows_term:.0f}",
          f"{subspace:,.0f}",
        )
      )
  return _table(
    "n | ε | theorem 1's k | 2 n exp(-(ε² - ε³) k / 4) | 5 log n / ε² "
    "| 9 d log d / ε², d = 64",
    rows,
  )


def theorem1(found) -> str:
  """Returns a table of each form of theorem 1 at its own k, d = 64."""
  rows = []
  for n in settings.LENGTHS:
    for i, epsilon in enumerate(bounds.EPSILONS):
      k = bounds.theorem_k(n, epsilon)
      for values in settings.VALUES:
        s = settings.Setting(
          "theorem1", n, 64, k, values, seeds=settings.seeds_of(n)
        )
        record = found[s]
        fails = record["failures"]
        expected = bounds.printed_rms(median(record, "zero"), k)
        rows.append(
          (
            f"{n:,}",
            f"{epsilon}",
            f"{k}",
            _WORDS[values],
            _number(median(record, "printed")),
            _number(expected),
            _share(fails["printed"][i], record),
            _number(yardstick(found, s, "printed")),
            _number(median(record, "supported")),
            _share(fails["supported"][i], record),
            _share(fails["worst_row"][i], record),
            f"{record['union_bound'][i]:.0%}",
            _share(fails["zero"][i], record),
          )
        )
  return _table(
    "n | ε | k | w | error / ‖Pw‖ | expected | over ε | best rank k "
    "| error / (‖P‖_F ‖w‖) | over ε | a row over ε | bound "
    "| P̃ = 0 over ε",
    rows,
  )


def concentration(found) -> str:
  """Returns a table of both forms by attention, n = 512, theorem 1's k."""
  rows = []
  for s, record in found.items():
    if (s.check, s.n, s.k) != ("theorem1", 512, bounds.theorem_k(512, 0.5)):
      continue
    if s.values in settings.VALUES and s.d == 16:
      continue
    fails = record["failures"]
    minilm = s.values in settings.MINILM
    rows.append(
      (
        _WORDS[s.values] if minilm else f"Gaussian, scale {s.scale:.0f}",
        "of V" if minilm else _WORDS[s.values],
        _number(median(record, "concentration")),
        _number(median(record, "printed")),
        _share(fails["printed"][1], record),
        _number(yardstick(found, s, "printed")),
        _number(median(record, "supported")),
        _share(fails["supported"][1], record),
        _share(fails["worst_row"][1], record),
        _number(yardstick(found, s, "supported")),
      )
    )
  return _table(
    "attention | w | ‖P‖_F² | error / ‖Pw‖ | over 0.5 | best rank k "
    "| error / (‖P‖_F ‖w‖) | over 0.5 | a row over 0.5 | best rank k",
    rows,
  )


def theorem2(found) -> str:
  """Returns a table of the construction against delta, n = 512."""
  rows = []
  k = bounds.theorem_k(512, 0.5)
  for values in settings.VALUES:
    s = settings.Setting("theorem2", 512, 64, k, values)
    best = yardstick(found, s, "row")
    for record in figure.by_delta(found, 512, values):
      rows.append(
        (
          _WORDS[values],
          f"{record['delta']:.3g}",
          *(
            _number(median(record, name))
            for name in ("construction", "plain", "zero", "mean")
          ),
          _number(best),
          _share(record["failures"]["construction"][1], record),
          *(
            _number(median(record, name))
            for name in ("relative", "response", "step", "normalisers")
          ),
        )
      )
  return _table(
    "V | δ | construction | RᵀR | zero | mean of V | best rank k "
    "| construction over 0.5 | error / ‖softmax(w) V‖ | response | step "
    "| normalizers",
    rows,
  )


def lengths(found) -> str:
  """Returns a table of failures at delta = 1/n and theorem 1's k for 0.5."""
  rows = []
  for s, record in found.items():
    if s.check != "theorem2" or s.delta != 1 / s.n:
      continue
    fails = record["failures"]
    rows.append(
      (
        f"{s.n:,}",
        f"{s.k}",
        _WORDS[s.values],
        *(
          f"{_number(median(record, name))}, {_share(fails[name][0], record)}"
          for name in draws.CLAIMS["theorem2"]
        ),
        _number(yardstick(found, s, "row")),
      )
    )
  return _table(
    "n | k | V | construction | RᵀR | zero | mean of V | exp, unnormalized "
    "| best rank k",
    rows,
  )


def practice(found) -> str:
  """Returns a table of relative errors on held-out sequences."""
  rows = []
  for setting, record in found.items():
    if setting.check != "practice":
      continue
    errors = record["relative"]
    least = min(errors[name] for name in METHODS)
    texts = [
      f"**{_number(errors[name])}**"
      if errors[name] == least
      else _number(errors[name])
      for name in METHODS
    ]
    source = _WORDS.get(setting.values, setting.values)
    rows.append(
      (
        f"{setting.n}",
        f"{setting.scale:.0f}",
        source,
        f"{setting.k}",
        *texts,
        _number(errors["best_rank"]),
        _number(record["theorem"]["fitted_pool"]),
        _number(record["theorem"]["zero"]),
      )
    )
  return _table(
    "n | scale | source | k | "
    + " | ".join(METHODS.values())
    + " | best rank k | fitted from mean pool, theorem 2's unit "
    "| zero, same unit",
    rows,
  )


def environment(found) -> str:
  """Describes the hardware and versions of the checks."""
  on = {
    "{device}, {host}, Python {python}, jax {jax}, optax {optax}".format(
      **record
    )
    for record in found.values()
  }
  commits = sorted({record["commit"] for record in found.values()})
  return (
    f"{len(found)} settings on {'; '.join(sorted(on))}, commits "
    f"{', '.join(commits)}."
  )


def sections(found: dict) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  # The file may be in any order, as missing settings are appended.
  found = {s: found[s] for s in settings.every_setting() if s in found}
  parts = {
    "on": environment(found),
    "promised": promised(),
    "theorem1": theorem1(found),
    "concentration": concentration(found),
    "theorem2": theorem2(found),
    "lengths": lengths(found),
    "practice": practice(found),
  }
  return {MARK.format(name): text for name, text in parts.items()}


if __name__ == "__main__":
  results = measure.records()
  PAGE.write_text(page_lib.renew(PAGE.read_text(), sections(results)))
  figure.draw(results)

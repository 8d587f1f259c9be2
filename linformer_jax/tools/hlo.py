"""Reads the text of compiled programs (HLO)."""

import functools
import math
import re
from collections import Counter

_COLLECTIVE = re.compile(
  # For an async pair, match only -done, whose shape is just the result.
  r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
  r"|collective-permute|collective-broadcast)(?:-done)?\("
)
_CALLED = re.compile(
  r"\b(calls|to_apply|body|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)


def _bytes(shapes):
  """Returns the bytes of an HLO shape such as '(f32[2,3]{1,0}, s32[])'."""
  total = 0
  for kind, bits, sizes in re.findall(
    r"\b(pred|[a-z]+)(\d*)\w*\[([\d,]*)\]", shapes
  ):
    bits = 8 if kind == "pred" else int(bits or 0)
    total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
  return total


def collectives(text: str) -> dict[str, int]:
  """Returns the output bytes of a program's collectives, by kind.

  A loop body counts as often as the loop runs, according to the compiler's trip
  count or to the constant that bounds the loop counter.

  Args:
    text: HLO of one device, as returned by `jax.stages.Compiled.as_text`.
  """
  computations, entry = {}, ""
  for line in text.splitlines():
    if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
      lines = computations[header[2]] = []
      entry = header[2] if header[1] else entry
    elif line.startswith("  "):
      lines.append(line)

  def trips(line):
    if known := re.search(r'known_trip_count":{"n":"(\d+)"', line):
      return int(known[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)[1]
    test = "\n".join(computations[condition])
    bounds = re.findall(r" constant\((\d+)\)", test)
    return int(bounds[0]) if len(bounds) == 1 and "=LT" in test else None

  @functools.cache
  def total(name):
    found = Counter()
    for line in computations.get(name, ()):
      if match := _COLLECTIVE.search(line):
        found[match[2]] += _bytes(match[1])
      if " async-done(" in line or " async-update(" in line:
        continue  # the async-start names the computation too
      for role, names in _CALLED.findall(line):
        for called in re.findall(r"[\w.\-]+", names):
          inner = total(called)
          times = trips(line) if inner and role == "body" else 1
          for kind, size in inner.items():
            if times is None:
              kind += " (in a loop of unknown length, counted once)"
            found[kind] += size * (times or 1)
    return found

  return dict(total(entry))

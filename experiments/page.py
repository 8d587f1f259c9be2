"""Pages with parts that are rendered from results, between markers."""

import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
END = "<!-- end -->"


def machines(records, *packages: str, cpu: bool = False) -> str:
  """Returns the different machines and versions of records, as text.

  Args:
    records: with the fields of `hardware.environment`.
    packages: names of the packages to tell beside Python and jax.
    cpu: whether to tell the model of the processor.
  """
  words = ["{device}", "{host}", *(["{cpu}"] if cpu else [])]
  words += ["Python {python}", "jax {jax}"]
  words += [f"{name} {{{name}}}" for name in packages]
  template, commits = ", ".join(words), {}
  for record in records:
    found = commits.setdefault(template.format(**record), set())
    found.add(record["commit"])
  return "; ".join(
    f"{machine}, commit{'s' * (len(found) > 1)} {', '.join(sorted(found))}"
    for machine, found in sorted(commits.items())
  )


def spread(values) -> str:
  """Returns the mean, and the standard deviation if there are several."""
  values = np.asarray(values)
  if not values.size:
    return ""
  deviation = f" ± {values.std(ddof=1):.1f}" if values.size > 1 else ""
  return f"{values.mean():.1f}{deviation}"


def runs(records) -> str:
  """Returns how many runs there are, their time, and the machines.

  Args:
    records: with the fields of `hardware.environment` and `run_seconds`.
  """
  found = list(records)
  if not found:
    return "Not run yet."
  seconds = sum(record["run_seconds"] for record in found)
  time = f"{seconds / 3600:.1f} hours"
  if seconds < 3600:
    time = f"{seconds / 60:.0f} minutes"
  return (
    f"{len(found)} runs, {time} of updates. On {machines(found, cpu=True)}."
  )


def write(page: pathlib.Path, parts: dict[str, str]):
  """Renews a page, and says so."""
  page.write_text(renew(page.read_text(), parts))
  print(f"rendered {page.relative_to(ROOT)}")


def renew(page: str, parts: dict[str, str]) -> str:
  """Returns a page with the text between its markers replaced.

  Args:
    page: Markdown.
    parts: texts by their begin marker; `END` ends each. Markers that the page
      does not have are ignored.
  """
  for begin, text in parts.items():
    if begin in page:
      before, rest = page.split(begin)
      _, after = rest.split(END, 1)
      page = f"{before}{begin}\n{text}\n{END}{after}"
  return page

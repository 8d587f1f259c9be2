"""Renders the table of faults into its page.

  .venv/bin/python -m experiments.faults.render

Writes experiments/faults/README.md between its markers. A test renders again
and compares.
"""

import pathlib

from experiments import page as page_lib
from experiments.faults import campaign

PAGE = pathlib.Path(__file__).parent / "README.md"
MARK = "<!-- experiments/faults/render.py: {} -->"


def parts(found: dict) -> dict[str, str]:
  """Returns the rendered parts of the page, by marker."""
  return {
    MARK.format("table"): campaign.table(found),
    MARK.format("on"): environment(found),
  }


def environment(found: dict) -> str:
  """Describes the number of trials, the hardware and the time."""
  jobs = list(found.values())
  lines = [line for job in jobs for line in job]
  machines = page_lib.machines(lines, "orbax-checkpoint")
  days = sorted({line["time"][:10] for line in lines})
  when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
  minutes = sum(job[0]["seconds"] for job in jobs) / 60
  return (
    f"{len(lines)} trials, seed {lines[0]['seed']}, run on {when}, on "
    f"{machines}; {minutes:.0f} minutes in all."
  )


def main():
  """Renders the page."""
  found = campaign.records()
  page_lib.write(PAGE, parts(found))


if __name__ == "__main__":
  main()

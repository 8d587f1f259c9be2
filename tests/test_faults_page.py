"""The results of the fault campaign, and the page that shows them."""

import collections

import pytest

from experiments import page as page_lib
from experiments.faults import campaign, render

# The least number of trials of each fault that a page speaks of.
PROMISED = {
  "SIGKILL": 100,
  "SIGKILL while tokenising": 5,
  "SIGTERM": 10,
  "SIGINT": 10,
  "disk full": 5,  # and ten more where mounting is allowed
  "checkpoint damaged": 70,
  "every checkpoint damaged": 1,
  "token cache damaged": 30,
  "file of the run damaged": 12,
  "read-only": 5,
  "clock jump": 9,
  "two runs at once": 12,
  "unpickling": 5,
}


@pytest.fixture(scope="module")
def found():
  return campaign.records()


def test_the_page_is_rendered_from_the_committed_results(found):
  page = render.PAGE.read_text()
  assert page_lib.renew(page, render.parts(found)) == page
  assert campaign.table(found) in page


def test_every_committed_trial_ended_well(found):
  for lines in found.values():
    assert campaign.done(lines), lines[-1]


def test_there_are_as_many_trials_as_promised(found):
  counts = collections.Counter()
  for (fault, _), lines in found.items():
    counts[fault] += len(lines)
  assert set(counts) == set(PROMISED) == set(campaign.FAULTS)
  short = {x: counts[x] for x in PROMISED if counts[x] < PROMISED[x]}
  assert not short


def test_the_table_says_what_did_not_end_well():
  line = {"fault": "SIGKILL", "trial": "a", "outcome": "same", "ok": True}
  wrong = line | {"outcome": "exit 1", "ok": False}
  text = campaign.table({("SIGKILL", "a"): [line, line, wrong]})
  assert text.endswith("| 3 | 2 same; 1 **not as it has to** |")


def test_a_page_keeps_what_is_not_between_marks():
  page = "a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n"
  renewed = page_lib.renew(page, {"<!-- x -->": "new", "<!-- z -->": "no"})
  assert renewed == page.replace("old", "new")

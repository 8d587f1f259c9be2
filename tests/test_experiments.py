"""Pages show what the committed results say."""

import json
import pathlib

from experiments import page as page_lib
from experiments import summary
from experiments.smoke import render

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "smoke" / "results"


def test_the_page_is_rendered_from_the_committed_result():
  page = render.PAGE.read_text()
  result = json.loads(render.RESULT.read_text())
  assert render.render(page, result) == page
  assert f"**{result['perplexity']:.2f}**" in page


def test_the_readme_is_rendered_from_the_committed_results():
  page, parts = summary.README.read_text(), summary.parts()
  assert page_lib.renew(page, parts) == page
  assert all(text in page for text in parts.values())
  assert page.count(page_lib.END) == len(parts)


def test_the_readme_tells_what_ran_from_what_was_compiled(tmp_path):
  for name, device in (
    ("speed/results/time.jsonl", "ran"),
    ("speed/results/memory.jsonl", "compiled"),
    ("smoke/results/result.json", "ran too"),
  ):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"device": device, "host": "h"}))
  ran, compiled = summary.hardware(tmp_path).splitlines()
  assert ran.endswith("ran (h); ran too (h).")
  assert compiled.endswith(": compiled.")


def test_the_default_job_reached_its_target():
  """Under half of the unigram perplexity, in ten minutes."""
  result = json.loads(render.RESULT.read_text())
  assert result["perplexity"] < 0.5 * result["unigram_perplexity"]
  assert result["wall_seconds"] < 600


def test_the_curve_ends_at_the_result():
  rows = [
    json.loads(line)
    for line in (RESULTS / "metrics.jsonl").read_text().splitlines()
  ]
  result = json.loads(render.RESULT.read_text())
  evaluations = [row for row in rows if "eval/perplexity" in row]
  assert evaluations[-1]["step"] == result["step"]
  assert evaluations[-1]["eval/perplexity"] == result["perplexity"]
  assert (RESULTS / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_ledger_names_every_folder_of_results():
  ledger = (ROOT / "experiments" / "README.md").read_text()
  for folder in (ROOT / "experiments").glob("*/results"):
    assert f"{folder.parent.name}/results" in ledger

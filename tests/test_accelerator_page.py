"""The speed table of an accelerator: measured in turns, and as medians."""

import pytest

from experiments.speed import accelerator, accelerator_page, cells
from linformer_jax import hardware


def line(what, n, **seconds):
  """A record with the seconds of each row."""
  rows = {
    name.replace("_", " "): {
      "seconds": times,
      "query_block": 0,
      "flops_needed": 6 if name.startswith("softmax") else 2,
    }
    for name, times in seconds.items()
  }
  return {"what": what, "n": n, "rows": rows}


def test_a_cell_is_the_ratio_of_medians_and_the_papers_or_that_of_flops():
  ours = {
    f"k={k}_{kernel}": [1.0, 9.0, 2.0]
    for kernel in accelerator.KERNELS
    for k in (128, 256)
  }
  slow = {f"softmax_{kernel}": [8.0, 5.0, 6.0] for kernel in ("xla", "cudnn")}
  found = [line("forward", 512, **slow, **ours), line("other", 512)]
  paper = cells.paper_table("table3_time")[512, 128]
  row = accelerator_page.table("forward", "xla", found).splitlines()[-1]
  assert row.startswith("| 512 | 6e+03 (5.2e+03 to 7.6e+03) | **3** ")
  assert f"({paper:g})" in row and row.count("**") == 4
  row = accelerator_page.table("forward", "cudnn", found).splitlines()[-1]
  assert "**3** (3)" in row


@pytest.mark.slow
@pytest.mark.parametrize(
  "what",
  # Six training steps of RoBERTa-base: 13 minutes and 7 GB.
  [*cells.PASSES, pytest.param(accelerator.STEP, marks=pytest.mark.hour)],
)
def test_every_row_is_timed_in_turns_or_says_why_not(what, monkeypatch):
  monkeypatch.setattr(accelerator, "TOKENS", 512)
  monkeypatch.setattr(accelerator, "ROUNDS", 2)
  monkeypatch.setattr(accelerator, "SAMPLE", 1e-3)
  monkeypatch.setattr(hardware, "matrix_product_rate", lambda *_: 1e12)
  item = accelerator.Item(what, 512)
  found = accelerator.measure(item)["rows"]
  assert len(found) == len(item.rows()) == 6
  for name, row in found.items():
    if "cudnn" in name:
      assert "needs an NVIDIA GPU" in row["error"]
    else:
      assert len(row["seconds"]) == 2 and row["flops_needed"] > 1e9

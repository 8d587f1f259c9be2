"""Runs experiments, and renders their pages from the results.

  python -m experiments                  # the names
  python -m experiments NAME [FLAG...]   # measure what is missing, render
  python -m experiments NAME --help      # its flags: --list, --only, --again
  python -m experiments render           # every page, and README's table

Stop a measurement when you like; the same command resumes.
"""

import subprocess
import sys

# (the module that measures, if any; the module that renders the page)
EXPERIMENTS = {
  "smoke": (None, "smoke.render"),
  "speed": ("speed.measure", "speed.render"),
  "memory": ("speed.memory", "speed.render"),
  "kernels": ("kernels.measure", "kernels.render"),
  "accelerator": ("speed.accelerator", "speed.render"),
  "perplexity": ("perplexity.sweep", "perplexity.render"),
  "mechanism": ("mechanism.measure", "mechanism.render"),
  "hybrid": ("hybrid.measure", "hybrid.render"),
  "probes": ("probes.measure", "probes.render"),
  "lra": ("lra.measure", "lra.render"),
  "adamra": ("adamra.measure", "adamra.render"),
  "causal": ("causal.measure", "causal.render"),
  "seq2seq": ("seq2seq.measure", "seq2seq.render"),
  "gap": ("gap.measure", "gap.render"),
  "warm": ("warm.measure", "warm.render"),
  "finetune": ("finetune.measure", "finetune.render"),
  "checkpoints": ("checkpoints.make", "checkpoints.render"),
  "convert": ("convert.measure", "convert.render"),
  "spectrum": ("spectrum.measure", "spectrum.render"),
  "theorems": ("theorems.measure", "theorems.render"),
  "topologies": ("topologies.measure", "topologies.render"),
  "long": ("topologies.long", "topologies.render"),
  "faults": ("faults.campaign", "faults.render"),
}
# With these flags the committed results do not change.
_LOOKS = ("--list", "--help", "-h", "--results")


def run(module: str, *words: str) -> int:
  """Runs a module of this package in a separate process."""
  command = [sys.executable, "-m", f"experiments.{module}", *words]
  with subprocess.Popen(command) as process:
    while True:
      try:
        return process.wait()
      except KeyboardInterrupt:  # The process receives it too and reports it.
        continue


def render() -> int:
  """Renders every page; returns the worst exit status."""
  modules = dict.fromkeys(page for _, page in EXPERIMENTS.values())
  return max(run(module) for module in [*modules, "summary"])


def main() -> int:
  """Reads sys.argv; returns the exit status."""
  name, *words = sys.argv[1:] or ["--help"]
  if name in ("--help", "-h"):
    print(__doc__ + "\nNAME is one of " + ", ".join(EXPERIMENTS))
    return 0
  if name == "render" and not words:
    return render()
  if name not in EXPERIMENTS:
    names = ", ".join(["render", *EXPERIMENTS])
    print(f"experiments: {name!r} is not one of {names}", file=sys.stderr)
    return 2
  measure, page = EXPERIMENTS[name]
  if measure is None:
    return run(page, *words)
  status = run(measure, *words)
  looks = any(word.split("=")[0] in _LOOKS for word in words)
  if status in (0, 1) and not looks:  # 1: some of it is not there yet
    status = run(page) or status
  return status


if __name__ == "__main__":
  sys.exit(main())

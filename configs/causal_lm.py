"""Causal language modeling with softmax attention, on the packaged speeches.

Predicts each token from those before it, at the size of configs/smoke.py.

Command: ./launch.sh train --config=configs/causal_lm.py --workdir=runs/causal
Hardware: two CPU cores.
Wall-clock and result: not recorded.
"""

from configs import base, smoke


def get_config(argument: str = ""):
  """See the module's docstring."""
  base.parse_argument(argument)
  config = smoke.get_config()
  with config.unlocked():
    config.task = {"name": "causal_lm"}
  config.model.attention = "softmax"
  return config

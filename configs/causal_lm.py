"""Causal language modeling with softmax attention, on the packaged speeches.

The size of configs/smoke.py; each token is predicted from those before it.

Command: ./launch.sh train --config=configs/causal_lm.py --workdir=runs/causal
Hardware: two CPU cores.
Wall-clock and result: not recorded; a run says what it takes and reaches.
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

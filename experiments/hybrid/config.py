"""configs/pretrain_small.py, with `attention=near_far` of attentions.py too."""

from configs import pretrain_small
from experiments.hybrid import attentions


def get_config(argument: str = ""):
  """See configs/pretrain_small.py."""
  attentions.register()
  return pretrain_small.get_config(argument)

"""Pretrains Linformer at the paper's sizes (arXiv 2006.04768, section 5.1).

Argument, any of: n=512 (to 4096), k=128 (64 to 256), sharing=headwise (none,
key_value, layerwise), projection=linear (convolution, mean_pool, max_pool,
adaptive_pool, random), size=base (large).

Command:
  ./launch.sh train --config=configs/linformer.py:n=512,k=128 \
    --config.data.source=tfds --config.data.tfds_name=wiki40b/en \
    --config.data.tfds_data_dir=gs://tfds-data/datasets \
    --config.data.tfds_validation_split=validation --workdir=runs/linformer
Hardware: a TPU v5e-16 slice or larger; batch and schedule of RoBERTa-base.
Wall-clock and result: not yet run at this scale. The paper's validation
  perplexity after 250k updates, read off its Figure 3: k=64 3.57, k=128 3.43,
  k=256 3.34 at n=512 against 3.26 for the Transformer.
"""

from configs import base


def get_config(argument: str = ""):
  """See the module's docstring."""
  given = base.parse_argument(
    argument, n=512, k=128, sharing="headwise", projection="linear", size="base"
  )
  config = base.get_config()
  base.set_size(config, given["size"])
  config.model.max_length = given["n"]
  config.attention.projected_length = given["k"]
  config.attention.sharing = given["sharing"]
  config.attention.projection = given["projection"]
  return config

"""Every field of an experiment, with its unit. Other configs change values.

arXiv 2006.04768 lists no hyperparameters, so the defaults are RoBERTa's
pretraining recipe (arXiv 1907.11692) at the paper's model sizes.

Command: not run by itself; see linformer.py, transformer.py and smoke.py.
"""

from ml_collections import config_dict

from linformer_jax import attention as attention_lib

# layers, width, heads, MLP width: RoBERTa's two sizes.
SIZES = {"base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}


def parse_argument(argument: str, **defaults):
  """Reads a config argument such as 'n=512,k=128,sharing=headwise'.

  Args:
    argument: name=value pairs, comma separated; '' for all defaults.
    **defaults: known names with defaults; a value is parsed as its default's
      type.

  Returns:
    A dict of all names.

  Raises:
    ValueError: for an unknown name or a value that cannot be read.
  """
  values = dict(defaults)
  for pair in filter(None, (argument or "").split(",")):
    name, separator, text = pair.partition("=")
    if not separator or name not in defaults:
      known = ", ".join(f"{name}=..." for name in defaults) or "none at all"
      raise ValueError(f"config argument {pair!r} is not understood: {known}")
    kind = type(defaults[name])
    try:
      values[name] = kind(text)
    except ValueError:
      raise ValueError(
        f"config argument {pair!r}: {text!r} is not {kind.__name__}"
      ) from None
  return values


def set_size(config, size: str):
  """Sets depth and widths to one of `SIZES`.

  Raises:
    ValueError: for an unknown size.
  """
  if size not in SIZES:
    raise ValueError(
      f"config argument size={size!r} is not one of {', '.join(SIZES)}"
    )
  model = config.model
  (model.num_layers, model.embed_dim, model.num_heads, model.mlp_dim) = SIZES[
    size
  ]


def set_attention(config, names: str):
  """Replaces `config.attention` by the fields of the attentions named.

  Fields have their defaults, but those of an attention that the config has
  already, and the dropout rate, are kept.

  Args:
    config: the config to change.
    names: a key of `linformer_jax.attention.ATTENTIONS`, or several joined by
      '+', a pattern that the layers repeat from the first.

  Raises:
    ValueError: for an unknown name.
  """
  old = config.attention.to_dict()
  pattern = names.split("+")
  group = attention_lib.fields(*pattern)
  for name in set(pattern):
    fields = group if len(pattern) == 1 else group[name]
    kept = fields if name == old["name"] else {"dropout_rate"} & fields.keys()
    fields.update({field: old[field] for field in kept if field in old})
  with config.unlocked():
    config.attention = config_dict.ConfigDict(group)


def get_config() -> config_dict.ConfigDict:
  """All fields, at RoBERTa-base's size and recipe."""
  config = config_dict.ConfigDict()
  config.seed = 0  # for parameters, dropout, data order and the task

  model = config.model = config_dict.ConfigDict()
  model.vocab_size = 50_265  # subwords
  model.max_length = 512  # n, tokens in an input
  model.num_layers = 12
  model.embed_dim = 768  # width
  model.num_heads = 12
  model.mlp_dim = 3072
  model.num_segments = 0  # token types that mark pairs of texts; 0: none
  model.norm_position = "post"  # or 'pre'
  model.position_offset = 2  # rows that RoBERTa leaves unused
  model.position_init = "normal"  # or sinusoidal, neighbours, rotary
  model.position_dims = 64  # features 'neighbours' reserves for positions
  model.position_gain = 1.7  # of query and key kernels on those features
  model.initializer_std = 0.02  # 0: Xavier kernels, 1/sqrt(width) embeddings
  model.dropout_rate = 0.1
  model.norm_epsilon = 1e-5
  model.query_block = 0  # queries per block, to bound memory; 0: off
  model.scan_layers = True  # compile time does not grow with depth
  # Recompute layers in the backward pass, one query block at a time if any.
  model.remat = False
  model.dtype = "float32"  # or 'bfloat16', for matrix products

  # The fields of one attention; `set_attention` chooses another, or several.
  attention = config.attention = config_dict.ConfigDict()
  attention.name = "linformer"
  attention.projected_length = 128  # k
  attention.projected_lengths = ()  # k per layer; () for projected_length
  attention.sharing = "headwise"  # or none, key_value, layerwise
  # linear, convolution, mean_pool, max_pool, adaptive_pool or random
  attention.projection = "linear"
  attention.projection_init = "normal"  # of E, F; or mean_pool, strided
  attention.projection_std = 0.02  # std of its noise
  attention.local_window = 0  # rows on either side to attend to; 0: off
  attention.dropout_rate = 0.1  # on attention weights
  attention.implementation = "xla"  # flash, cpu, pallas_tpu, cudnn (GPU)

  data = config.data = config_dict.ConfigDict()
  data.source = "sotu"  # synthetic, files, tfds; labeled, for classification
  data.files = ""  # globs of text, JSON lines, Parquet; comma separated
  data.validation_files = ""  # likewise; '' holds out some of the text
  data.tfds_name = ""  # wiki40b/en, lm1b, pg19, ...
  data.tfds_train_split = "train"
  data.tfds_validation_split = ""  # '' holds out training documents
  data.tfds_data_dir = ""  # '' for the default of TFDS
  data.text_feature = "text"  # field of TFDS, JSON lines, CSV and Parquet
  data.pair_feature = ""  # of labeled pairs; '' is text_pair in files
  data.truncate = True  # labeled texts longer than N; False refuses them
  # Lengths that batches of labeled texts are padded to, N and its halves, in
  # place of N alone; 0: off. A batch then holds texts of like length.
  data.length_buckets = 0
  data.separate_pairs = False  # encode each text of a pair alone, for matching
  data.holdout_fraction = 0.05  # of text in bytes, for validation
  data.vocab_size = model.get_oneway_ref("vocab_size")
  data.tokenizer_path = ""  # tokenizer.json, vocab.txt; '' trains one
  data.tokenizer_train_megabytes = 100.0  # of training text, at most
  data.cache_dir = ""  # '' for $LINFORMER_CACHE or ~/.cache/linformer_jax
  data.sequence_length = model.get_oneway_ref("max_length")
  data.seed = config.get_oneway_ref("seed")

  task = config.task = config_dict.ConfigDict()
  task.name = "masked_lm"  # its fields follow; causal_lm has none
  task.mask_rate = 0.15  # of tokens, to be predicted
  task.mask_span = 1  # tokens masked together

  optimizer = config.optimizer = config_dict.ConfigDict()
  optimizer.learning_rate = 6e-4  # peak
  optimizer.warmup_steps = 24_000  # updates, linear from 0
  optimizer.adam_b1 = 0.9
  optimizer.adam_b2 = 0.98
  optimizer.adam_epsilon = 1e-6
  optimizer.weight_decay = 0.01  # of kernels and embeddings
  optimizer.projection_rate = 1.0  # scales updates of E and F; 0: frozen
  optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0: none

  train = config.train = config_dict.ConfigDict()
  train.batch_size = 256  # sequences per update, over all devices
  train.accumulation_steps = 1  # microbatches per update
  train.num_steps = 250_000  # updates; the learning rate decays to 0 here
  train.restarts = ()  # updates at which --extend restarted the schedule
  train.init_from = ""  # --init_from: folder of the run with initial weights
  train.init_model = False  # take `model` and `attention` from there, too

  mesh = config.mesh = config_dict.ConfigDict()  # devices per axis; -1: rest
  mesh.data = -1  # sequences of a batch
  mesh.fsdp = 1  # sequences too, and the width of parameters and optimizer
  mesh.sequence = 1  # positions of a sequence, and columns of E and F
  mesh.tensor = 1  # heads, MLP, vocabulary
  # Sum gradients over devices in float32 although model.dtype is bfloat16.
  mesh.float32_gradients = False

  # Only these fields may change when a run resumes.
  run = config.run = config_dict.ConfigDict()
  run.log_every_steps = 100
  run.eval_every_steps = 5_000  # 0: only at the end
  run.eval_batch_size = 256  # sequences, over all devices
  run.checkpoint_every_steps = 5_000
  run.keep_checkpoints = 2
  run.keep_best = False  # the best checkpoint, too, by the task's main metric
  run.profile_steps = 0  # updates traced for TensorBoard from step 10 on
  return config.lock()

"""The `data` group of the configuration."""

import dataclasses

from linformer_jax.data.text import tokenizer

# Sources whose text is packed into blocks.
_BLOCKS = ("sotu", "synthetic", "files", "tfds")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The `data` group of the configuration, validated on construction.

  Attributes:
    source: a key of `data.pipeline.DATASETS`: 'sotu', 'synthetic', 'files' or
      'tfds' for text; 'labeled' for labeled texts, see `labeled`.
    files: globs, separated by commas, for 'files' and 'labeled'; see
      `source.files`.
    tfds_name: for 'tfds', and for 'labeled' in place of files,
      `name[/config][:version]`.
    tfds_train_split: of tfds_name, for example 'train'.
    tfds_validation_split: of tfds_name; '' holds out training documents.
    tfds_data_dir: the folder of the datasets, which must exist, or gs://; '' is
      TFDS's default.
    text_feature: the field of JSON lines, the column of CSV and Parquet, or the
      feature of a TFDS dataset.
    holdout_fraction: the fraction of bytes to hold out if there is no
      validation split.
    vocab_size: V, the size of the embedding table.
    tokenizer_path: a tokenizer.json, or BERT's vocab.txt; '' trains one on the
      training documents.
    tokenizer_train_megabytes: the most text to train it on.
    cache_dir: '' is $LINFORMER_CACHE or ~/.cache/linformer_jax.
    sequence_length: N, the number of tokens in a block.
    seed: seeds the order and the random draws of training, below 2**32. The
      corpus, its split and the draws of validation do not depend on it.
    validation_files: globs like `files`; '' holds out some of `files`.
    pair_feature: for 'labeled', the field, column or feature of the second
      text. '' stands for `text_pair` in files, where a row may lack it, and for
      none in TFDS.
    truncate: for 'labeled', whether texts longer than N are truncated; False
      refuses them.
    length_buckets: for 'labeled', the number of lengths that batches are padded
      to, N and its halves; 0 pads all to N. See `buckets`.
    separate_pairs: for 'labeled', whether each text of a pair is a row of up to
      N tokens, for the task 'matching', and not both one row.
  """

  source: str
  files: str
  tfds_name: str
  tfds_train_split: str
  tfds_validation_split: str
  tfds_data_dir: str
  text_feature: str
  holdout_fraction: float
  vocab_size: int
  tokenizer_path: str
  tokenizer_train_megabytes: float
  cache_dir: str
  sequence_length: int
  seed: int
  validation_files: str = ""
  pair_feature: str = ""
  truncate: bool = True
  length_buckets: int = 0
  separate_pairs: bool = False

  def __post_init__(self):
    self._check_source()
    if not 0 < self.holdout_fraction < 1:
      raise ValueError(
        f"holdout_fraction is {self.holdout_fraction}, not between 0 and 1"
      )
    # A tokenizer that is given is compared when it is loaded.
    trained = not self.tokenizer_path
    smallest = tokenizer.SMALLEST_VOCABULARY if trained else 1
    if not smallest <= self.vocab_size < 2**31:
      raise ValueError(
        f"vocab_size is {self.vocab_size}; it must be at least {smallest}"
        f"{' (256 bytes and 5 special tokens)' if trained else ''} and below"
        " 2**31"
      )
    if self.sequence_length < 2:
      raise ValueError(
        f"sequence_length is {self.sequence_length}; it must be at least 2"
      )
    if not self.tokenizer_train_megabytes > 0:
      raise ValueError(
        f"tokenizer_train_megabytes is {self.tokenizer_train_megabytes}; it"
        " must be positive"
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed is {self.seed}, not in [0, 2**32)")

  def _check_source(self):
    needed = {"files": ["files"], "tfds": ["tfds_name", "tfds_train_split"]}
    if self.source == "labeled":
      if not self.files and not self.tfds_name:
        raise ValueError("source 'labeled' needs files or tfds_name")
      if self.files and self.tfds_name:
        raise ValueError(
          "data.files and data.tfds_name are both set: source 'labeled' reads"
          " one of them"
        )
      if self.validation_files and self.tfds_name:
        raise ValueError(
          "data.validation_files is set, and data.tfds_name is read: set"
          " data.tfds_validation_split"
        )
      needed["labeled"] = needed["tfds" if self.tfds_name else "files"]
    for field in needed.get(self.source, []):
      if not getattr(self, field):
        raise ValueError(f"source {self.source!r} needs {field}")
    for field, sources in (
      ("files", ("files", "labeled")),
      ("validation_files", ("files", "labeled")),
      ("tfds_name", ("tfds", "labeled")),
      ("pair_feature", ("labeled",)),
    ):
      if getattr(self, field) and self.source not in sources:
        raise ValueError(
          f"data.{field} is set, and data.source is {self.source!r}, which does"
          f" not read it: set data.source={sources[0]}"
        )
    if not self.truncate and self.source in _BLOCKS:
      raise ValueError(
        f"data.truncate=False is for source 'labeled'; {self.source!r} cuts its"
        " text into blocks: leave data.truncate"
      )
    if self.length_buckets < 0:
      raise ValueError(
        f"data.length_buckets {self.length_buckets} is negative: 0 is off"
      )
    if self.length_buckets and self.source in _BLOCKS:
      raise ValueError(
        f"data.length_buckets is for source 'labeled'; {self.source!r} packs"
        " its text into blocks: leave data.length_buckets"
      )
    if self.separate_pairs and self.source in _BLOCKS:
      raise ValueError(
        f"data.separate_pairs is for source 'labeled'; {self.source!r} has no"
        " pairs: leave data.separate_pairs"
      )
    if self.pair_feature and self.pair_feature == self.text_feature:
      raise ValueError(
        "data.pair_feature and data.text_feature are both"
        f" {self.pair_feature!r}: name two, or leave data.pair_feature empty"
      )

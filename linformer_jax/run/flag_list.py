"""The flags of the command line besides those of config fields."""

from absl import flags

# (kind, name, default, help)
_FLAGS = (
  ("string", "config", None, "Config file, and its argument after a colon."),
  (
    "string",
    "workdir",
    None,
    "Folder of the run: checkpoints, metrics, curve.png.",
  ),
  (
    "string",
    "topology",
    None,
    "For plan: a TPU slice such as v5e:4x4, v5p:2x2x1 or v5e:1, or h100.",
  ),
  (
    "string",
    "to",
    None,
    "For export and convert: a new folder for the model. For predict and "
    "generate: a file, JSON lines.",
  ),
  (
    "string",
    "from",
    None,
    "For convert: a run, an exported model, or BERT-like weights.",
  ),
  (
    "integer",
    "k",
    None,
    "For convert: slots to which keys and values are projected.",
  ),
  (
    "string",
    "start",
    "adaptive_pool",
    "For convert: what E and F start as: adaptive_pool (no weights; exact for "
    "texts of up to k tokens), mean_pool, strided, random, fitted or svd.",
  ),
  (
    "string",
    "layers",
    "",
    "For convert: the layers, such as 0,2-3,5-, or auto for those of rank k or "
    "less on --texts; by default all.",
  ),
  (
    "integer",
    "window",
    0,
    "For convert: rows on either side that all other layers attend to.",
  ),
  (
    "integer",
    "length",
    0,
    "For convert: make the model take so many tokens.",
  ),
  (
    "string",
    "positions",
    "repeat",
    "For convert with --length: 'repeat' begins the table of positions anew, "
    "'stretch' interpolates it.",
  ),
  (
    "string",
    "texts",
    None,
    "For convert: texts to measure and distill on: globs of text, JSON lines "
    "with `text`, or Parquet.",
  ),
  (
    "integer",
    "updates",
    0,
    "For convert: updates of 8 texts that teach the converted model the "
    "original's hidden states.",
  ),
  (
    "string",
    "input",
    None,
    "For predict: texts as JSON lines, CSV or TSV, as for training. For "
    "generate: prompts likewise; --to has their completions.",
  ),
  (
    "string",
    "dtype",
    "float32",
    "For export: of the weights in the file; bfloat16 halves it.",
  ),
  (
    "integer",
    "top",
    5,
    "For fill: how many tokens to print for each <mask>.",
  ),
  ("string", "prompt", None, "For generate: the text to continue."),
  ("integer", "number", 100, "For generate: tokens to add, at most."),
  (
    "float",
    "temperature",
    1.0,
    "For generate: divides the logits; 0 takes the likeliest token.",
  ),
  (
    "integer",
    "top_k",
    0,
    "For generate: draw from so many of the likeliest tokens; 0: all.",
  ),
  (
    "float",
    "top_p",
    1.0,
    "For generate: draw from the likeliest tokens with this probability.",
  ),
  ("string", "stop", "", "For generate: a string that ends a text."),
  ("integer", "seed", 0, "For generate: of the draws."),
  (
    "string",
    "step",
    "",
    "For export, fill, predict, generate and evaluate: best, last or a number "
    "of updates. By default the checkpoint that run.keep_best kept, or the "
    "newest; for evaluate the newest.",
  ),
  (
    "string",
    "seeds",
    "",
    "For train: 5, for the seeds 0 to 4, or a list such as 0,1,7. Trains a run "
    "for each in DIR/seed0, ..., and compares their scores in DIR/seeds.json.",
  ),
  (
    "bool",
    "truncate",
    True,
    "For predict: false refuses a text that is longer than the model takes.",
  ),
  (
    "bool",
    "new",
    False,
    "Start a new run in DIR-2, DIR-3, ... if DIR holds one.",
  ),
  (
    "bool",
    "extend",
    False,
    "Train a complete run further, to --config.train.num_steps: the learning "
    "rate warms up and decays once more, from the update it had ended at.",
  ),
  (
    "string",
    "init_from",
    None,
    "A run, an exported model or BERT-like weights in safetensors: start a new "
    "run from its best or newest weights, with its tokenizer and a fresh "
    "optimizer.",
  ),
  (
    "bool",
    "verify",
    False,
    "Hash all of the token cache before it is used; without the flag, only "
    "files that were touched since they were written.",
  ),
  (
    "bool",
    "distributed",
    False,
    "Join the processes of a TPU pod or a cluster "
    "(jax.distributed.initialize).",
  ),
)


def make_flags() -> flags.FlagValues:
  """Returns the unparsed flags, separate from absl's global ones."""
  values = flags.FlagValues()
  for kind, *words in _FLAGS:
    define = getattr(flags, f"DEFINE_{kind}")
    define(*words, flag_values=values)
  return values

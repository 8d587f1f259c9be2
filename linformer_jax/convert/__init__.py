"""Converts a model with softmax attention, and makes models longer.

What E and F start as, which layers are converted and what is measured on texts;
`models.convert` has the mathematics.
"""

import copy
import dataclasses
import pathlib
import re
from typing import Any

from ml_collections import config_dict

from linformer_jax import attention, loading, models
from linformer_jax.convert import distill, starts
from linformer_jax.convert import texts as texts_lib
from linformer_jax.models import convert as convert_lib
from linformer_jax.models import layers as layers_lib
from linformer_jax.run import report

RATE = 2e-4  # the largest of the distillation


@dataclasses.dataclass(frozen=True)
class Options:
  """What to do with a model; the flags of the command.

  Attributes:
    k: K; 0 converts no layer.
    start: one of `STARTS`.
    layers: '' for all, 'auto', or indices and ranges such as '0,2-3,5-'.
    window: of local attention in the other layers; 0 leaves them.
    length: the new max_length; 0 keeps it.
    positions: key of `models.convert.POSITIONS`, for a new length.
    texts: files; '' for none. See `data.text.source.files`.
    updates: of the distillation.
  """

  k: int = 0
  start: str = convert_lib.ADAPTIVE
  layers: str = ""
  window: int = 0
  length: int = 0
  positions: str = "repeat"
  texts: str = ""
  updates: int = 0

  def __post_init__(self):
    if not self.k and not self.length:
      raise ValueError("--k=K is needed, or --length=N for a longer model")
    if self.start not in starts.STARTS:
      raise ValueError(
        f"--start={self.start} is not one of {', '.join(starts.STARTS)}"
      )
    if self.positions not in convert_lib.POSITIONS:
      raise ValueError(
        f"--positions={self.positions} is not one of "
        f"{', '.join(convert_lib.POSITIONS)}"
      )
    for name in ("k", "window", "length", "updates"):
      if getattr(self, name) < 0:
        raise ValueError(f"--{name}={getattr(self, name)} must be 0 or more")
    for flag, needs in {
      f"--start={self.start}": self.k and self.start in starts.ON_TEXTS,
      "--layers=auto": self.k and self.layers == "auto",
      f"--updates={self.updates}": self.updates,
    }.items():
      if needs and not self.texts:
        raise ValueError(f"{flag} needs texts: give --texts=FILE")


def indices(text: str, count: int) -> list[int]:
  """Returns the layers that a flag such as '0,2-3,5-' names.

  Raises:
    ValueError: for another form.
  """
  found = set()
  for part in text.split(",") if text else ["0-"]:
    match = re.fullmatch(r"(\d+)(-(\d*))?", part.strip())
    if not match:
      raise ValueError(
        f"--layers={text} is not auto or indices and ranges, such as 0,2-3,5-"
      )
    first = int(match[1])
    last = int(match[3] or count - 1) if match[2] else first
    if max(first, last) >= count or last < first:
      raise ValueError(
        f"--layers={text}: {part} is not within the layers 0 to {count - 1}"
      )
    found |= set(range(first, last + 1))
  return sorted(found)


def _tell(run, new, encoders, texts, when: str):
  """Prints how the new model compares with the old one."""
  if isinstance(run.model, models.MaskedLM):
    old, loss = (texts_lib.loss(x, texts) for x in (run, new))
    found = f"{loss:.4f} nats per masked token (original {old:.4f})"
  else:
    error, cosine = texts_lib.difference(*encoders, texts)
    found = f"mean-pooled texts: relative error {error:.4f}, "
    found += f"cosine {cosine:.4f} to the original's"
  report.say(f"{when}: {found}, on {len(texts.tokens)} texts")


def _run_of(run: loading.Run, config, variables) -> loading.Run:
  """Returns a run with another model."""
  full = run.config
  if full is not None:
    full = copy.deepcopy(full)
    with full.unlocked():
      full.model.max_length = config.max_length
      shorter = min(full.data.sequence_length, config.max_length)
      full.data.sequence_length = shorter
      if config.layers != run.model.config.layers:
        group = attention.to_fields(config.layers)
        full.attention = config_dict.ConfigDict(group)
  model = run.model.clone(config=config)
  return dataclasses.replace(run, config=full, model=model, variables=variables)


def _projections(options: Options, original, texts) -> dict[int, Any]:
  """Returns what `models.convert.convert` takes as `by`."""
  config = original.config
  if options.layers == "auto":
    convert_lib.check_layers(config, range(config.num_layers))
    layers = starts.automatic(original, texts, options.k)
  else:
    layers = indices(options.layers, config.num_layers)
  convert_lib.check_layers(config, layers)
  if options.start == convert_lib.ADAPTIVE:
    return dict.fromkeys(layers)
  if options.start in starts.ON_TEXTS:
    convert_lib.check_layers(config, range(config.num_layers))
    return starts.on_texts(options.start, original, texts, options.k, layers)
  return convert_lib.projections(options.start, config, options.k, layers)


def convert(
  run: loading.Run, options: Options, folder: pathlib.Path | None = None
) -> loading.Run:
  """Returns a run's model converted; prints what is measured on texts.

  Args:
    run: the model.
    options: what to do with it.
    folder: where distillation saves and resumes; see `distill.distill`.

  Raises:
    ValueError: in one line, for a model, files or options that do not fit.
    preemption.Interrupted: at a signal, once the distillation is saved.
  """
  config, variables = run.model.config, run.variables
  if options.k > config.max_length:
    raise ValueError(
      f"--k={options.k} is more than the model's max_length {config.max_length}"
    )
  original = distill.encoder_of(config, variables)
  fit = measured = None
  if options.texts:
    length = min(config.max_length, options.length or config.max_length)
    fit, measured = texts_lib.read(run, options.texts, length).parts
  if options.k:
    by = _projections(options, original, fit)
    config, variables = convert_lib.convert(
      config, variables, options.k, by, options.window
    )
  if options.length:
    config, variables = convert_lib.stretch(
      config, variables, options.length, options.positions
    )
  causal = isinstance(run.model, models.CausalLM)
  for kind in config.layers:
    kind.check(config.sizes(kind, causal))
  new = _run_of(run, config, variables)
  if not options.texts:
    return new
  made = distill.encoder_of(config, variables)
  _tell(run, new, (original, made), measured, "before distillation")
  if not options.updates:
    return new
  params = _distilled(original, made, fit, options.updates, folder)
  made = dataclasses.replace(
    made, variables=made.variables | {"params": params}
  )
  new = _with_layers(new, params)
  _tell(run, new, (original, made), measured, "after distillation")
  return new


def _distilled(original, made, fit, updates, folder):
  """Returns the parameters of the encoder after distillation."""

  def tell(done, loss, left):
    report.say(
      f"{done:,} of {updates:,} updates, loss {loss:.5f}, "
      f"{report.clock(left)} left"
    )

  stream = distill.batches(fit.tokens, fit.mask, texts_lib.BATCH)
  return distill.distill(original, made, stream, updates, RATE, tell, folder)


def _with_layers(new: loading.Run, params) -> loading.Run:
  """Returns a run with these parameters of its encoder, layer by layer."""
  config = new.model.config
  old = layers_lib.unstack(new.variables)["params"]
  params = {**old, "encoder": params} if "encoder" in old else params
  variables = new.variables | {"params": params}
  if config.scan_layers:
    variables = layers_lib.stack(layers_lib.unstack(variables), config.layers)
  return dataclasses.replace(new, variables=variables)

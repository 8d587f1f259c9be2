"""Config fields that follow another one until they are set themselves."""

import pytest
import test_configs

from configs import linformer
from linformer_jax.run import command_line, config_fields

# A field that follows another one until it is set itself.
FOLLOWS = {
  "data.sequence_length": "model.max_length",
  "data.vocab_size": "model.vocab_size",
  "data.seed": "seed",
}


def changed(value):
  """Another value of the same type."""
  if isinstance(value, bool):
    return not value
  if isinstance(value, int | float):
    return value + 1
  return value + ("x" if isinstance(value, str) else (1,))


@pytest.mark.parametrize("module", test_configs.MODULES)
def test_setting_a_field_changes_it_and_what_follows_it_alone(module):
  before = config_fields.flatten(module.get_config())
  for name, value in before.items():
    config = module.get_config()
    config.update_from_flattened_dict({name: changed(value)})
    expected = before | {name: changed(value)}
    for follower, source in FOLLOWS.items():
      if source == name:
        expected[follower] = changed(value)
    assert config_fields.flatten(config) == expected, name


@pytest.mark.parametrize("module", test_configs.MODULES)
@pytest.mark.parametrize("follower", FOLLOWS)
def test_a_field_that_is_set_follows_no_more_in_any_order(module, follower):
  source = FOLLOWS[follower]
  path = f"--config={module.__name__.replace('.', '/')}.py"
  ours, theirs = f"--config.{follower}=270", f"--config.{source}=280"
  for words in (
    [path, ours, theirs],
    [path, theirs, ours],
    [theirs, ours, path],
    [path, theirs, "--config.train.batch_size=32", ours, theirs],
  ):
    given = command_line.make_flags()
    command_line.parse(given, ["main", *words])
    values = config_fields.flatten(given.config)
    assert (values[follower], values[source]) == (270, 280), words
    given = command_line.make_flags()
    command_line.parse(given, ["main", *(w for w in words if w != ours)])
    assert config_fields.flatten(given.config)[follower] == 280


def test_a_config_argument_is_followed_and_flags_count_more():
  config = linformer.get_config("n=1024")
  assert config.data.sequence_length == 1024
  config.data.sequence_length = 256
  config.model.max_length = 2048
  assert config.data.sequence_length == 256

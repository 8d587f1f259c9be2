"""Flags of fields that have moved."""

import pytest

from linformer_jax.run import command_line, config_fields
from tests import tiny


@pytest.mark.parametrize("old", command_line._MOVED)
def test_a_flag_of_a_field_that_moved_is_understood(old, capsys):
  new = command_line._MOVED[old]
  before = config_fields.flatten(tiny.get_config())[new]
  value = {str: "softmax", tuple: "(4, 4)"}.get(type(before), before)
  given = command_line.make_flags()
  flag = f"--config.{old}={value}"
  command_line.parse(given, ["main", "--config=tests/tiny.py", flag])
  got = config_fields.flatten(given.config)[new]
  assert got == ((4, 4) if type(before) is tuple else value)
  assert f"--config.{old} is --config.{new} now" in capsys.readouterr().out

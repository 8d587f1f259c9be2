"""Signals: the first is remembered, the second does what it always did."""

import signal

import pytest

from linformer_jax.run import preemption


@pytest.fixture
def handled():
  """Signals that reach the handlers that were there before."""
  numbers = []
  before = {
    number: signal.signal(number, lambda number, _: numbers.append(number))
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  yield numbers
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_is_remembered_and_second_stops_at_once(number, handled):
  with preemption.Signals() as signals:
    assert signals.received(0) is None
    signal.raise_signal(number)
    assert signals.received(1) == signals.received(2) == number
    assert handled == []
    signal.raise_signal(number)
    assert handled == [number]


def test_ctrl_c_after_sigterm_stops_at_once(handled):
  with preemption.Signals() as signals:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert handled == [signal.SIGINT]
    assert signals.received(1) == signal.SIGTERM


def test_handlers_come_back(handled):
  with preemption.Signals():
    pass
  signal.raise_signal(signal.SIGTERM)
  signal.raise_signal(signal.SIGINT)
  assert handled == [signal.SIGTERM, signal.SIGINT]

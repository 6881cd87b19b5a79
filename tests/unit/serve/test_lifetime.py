"""Signals end a service, whatever it was started with."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from zfleet.interrupts import signals_interrupt

ENDING = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(
    params=[signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler], ids=["ignored", "default", "python"]
)
def before(request: pytest.FixtureRequest) -> Iterator[object]:
    """What was there: a script's background begins with SIGINT ignored."""
    previous = {number: signal.signal(number, request.param) for number in ENDING}
    yield request.param
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_a_service_that_began_with_it_ignored(before: object, number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        signal.raise_signal(number)
    assert [signal.getsignal(one) for one in ENDING] == [before] * 2

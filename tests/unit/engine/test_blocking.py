"""The synchronous adapter: a caller does not outwait the thread that would answer."""

from __future__ import annotations

import pytest

from zfleet.engine import blocking
from zfleet.engine.blocking import SyncEngine
from zfleet.errors import EngineError
from zfleet.testing.fake_engine import FakeEngine


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_answers_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_LOOK_SECONDS", 0.01)
    engine = SyncEngine(FakeEngine())
    assert engine.stats().running == 0

    def end() -> None:
        raise SystemExit

    engine._loop.call_soon_threadsafe(end)
    engine._thread.join(10)
    with pytest.raises(EngineError, match="thread of the engine's event loop died"):
        engine.stats()
    engine._loop.close()

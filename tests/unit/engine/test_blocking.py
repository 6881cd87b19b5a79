"""The synchronous adapter: a caller does not outwait the thread that would answer."""

from __future__ import annotations

import pytest

from zfleet.engine import blocking
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import ChoicesRequest, HiddenRequest, ScoreRequest
from zfleet.errors import EngineError, InvalidRequest
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


def test_scores_and_hidden_states_come_in_the_order_of_their_requests() -> None:
    with SyncEngine(FakeEngine()) as engine:
        choices = [ChoicesRequest(prompt, ("yes", "no")) for prompt in ("one", "two")]
        assert engine.score_choices(choices) == [
            tuple(engine.score([ScoreRequest(one.prompt, completion) for completion in one.completions]))
            for one in choices
        ]
        first, second = engine.hidden_states([HiddenRequest("one"), HiddenRequest("two")])
        assert engine.hidden_states([HiddenRequest("two")]) == [second]
        assert first != second
        with pytest.raises(InvalidRequest, match=r"completions\[1\]"):
            engine.score_choices([choices[0], ChoicesRequest("one", ("yes", ""))])

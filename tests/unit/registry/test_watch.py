"""Watching a registry: every change once and in order, over restarts, absences and clocks that are wrong."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zfleet.config.gate import GateSpec
from zfleet.errors import RegistryError
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion, catalog
from zfleet_registry.log import Action, ExpertLog, store
from zfleet_registry.promotion import Traffic, promote, protect, rollback, set_traffic
from zfleet_registry.version import FORMAT as EXPERT_FORMAT
from zfleet_registry.watch import Cursor, Watch, Webhooks, watch

Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"


@pytest.fixture
def reader(root: Path) -> ExpertRegistry:
    """A registry that only reads."""
    return ExpertRegistry(root=root, reading=True)


@pytest.fixture
def watching(reader: ExpertRegistry) -> Iterator[Callable[..., Watch]]:
    """Start watches, which end with the test."""
    started: list[Watch] = []

    def start(since: Cursor | None = None) -> Watch:
        started.append(reader.watch(since))
        return started[-1]

    yield start
    for one in started:
        one.close()


def told(watching: Iterator[object], count: int) -> list[tuple[str, str, int | None]]:
    return [
        (entry.action.what, entry.action.alias, entry.action.version)  # type: ignore[attr-defined]
        for entry in islice(watching, count)
    ]


def test_changes_come_in_order_and_go_on_after_a_restart(
    registry: ExpertRegistry, put: Put, watching: Callable[..., Watch]
) -> None:
    first = put(seed=1, alias="champion")
    now = watching()
    second = put(seed=2)
    promote(registry, second, "champion")
    assert told(now, 2) == [("register", "", 2), ("promote", "champion", 2)]
    cursor = now.cursor
    now.close()
    # Nobody watches.
    rollback(registry, SLUG, "math", "champion")
    protect(registry, first, GateSpec(alias="champion", tasks=("math",), gain=0.0))
    set_traffic(registry.aliases(SLUG, "math"), Traffic({"champion": 100}))
    put("code", seed=3)
    later = watching(Cursor.from_text(cursor.to_text()))
    changes = list(islice(later, 3))
    assert {(one.action.expert, one.action.what) for one in changes} == {
        (f"{SLUG}.math", "rollback"),
        (f"{SLUG}.math", "traffic"),
        (f"{SLUG}.code", "register"),
    }
    assert later.cursor == Cursor({f"{SLUG}.math": 7, f"{SLUG}.code": 1})
    everything = told(watching(Cursor.from_text("beginning")), 7)
    assert len([one for one in everything if one[0] == "register"]) == 3


def test_a_watcher_that_handles_an_entry_has_it_in_its_cursor(put: Put, watching: Callable[..., Watch]) -> None:
    for seed in range(3):
        put(seed=seed)
    changes = watching(Cursor())
    for number in (1, 2):
        assert next(changes).number == number
        assert changes.cursor == Cursor({f"{SLUG}.math": number})
    changes.close()
    assert list(changes) == []


def test_a_refusal_and_a_gate_are_no_change(registry: ExpertRegistry, put: Put, watching: Callable[..., Watch]) -> None:
    log = registry.log(SLUG, "math")
    put(seed=1)
    log.append(Action("refuse", log.expert, "champion", 1))
    log.append(Action("set", log.expert, "champion", 1, relies_on=99))
    put(seed=2)
    assert told(watching(Cursor()), 2) == [("register", "", 1), ("register", "", 2)]


def test_a_registry_that_is_away_is_waited_for(
    put: Put,
    watching: Callable[..., Watch],
    root: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0.02)
    put(seed=1)
    changes, file = watching(), root / "mlflow.db"
    away = root / "away.db"
    file.rename(away)
    noticed = threading.Event()
    looks = 0

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noticed.set()

    handler = Count()
    watch.logger.addHandler(handler)
    waiting = threading.Thread(target=lambda: found.append(next(changes).action.version))
    found: list[int | None] = []
    waiting.start()
    try:
        assert noticed.wait(60)
        # Many more looks fail, of which nothing is said.
        while looks < 5:
            looks += 1
            threading.Event().wait(0.05)
        away.rename(file)
        put(seed=2)
        waiting.join(60)
    finally:
        watch.logger.removeHandler(handler)
    assert found == [2]
    said = [record.message for record in caplog.records if record.name == watch.logger.name]
    assert len(said) == 2
    assert "its file is missing: waiting; changes made meanwhile will follow" in said[0]
    assert "answers again" in said[1]


def test_an_entry_whose_writer_was_killed_is_read_and_not_written(
    registry: ExpertRegistry, put: Put, watching: Callable[..., Watch], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(seed=1)
    with monkeypatch.context() as killed:

        def kill(*args: object) -> None:
            raise KeyboardInterrupt

        killed.setattr(catalog, "tag_version", kill)
        with pytest.raises(KeyboardInterrupt):
            registry.log(SLUG, "math").append(Action("set", f"{SLUG}.math", "champion", 1))
    found = list(islice(watching(Cursor()), 2))
    assert found[1].seal.state.version_of("champion") == 1
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        seals = "SELECT count(*) FROM model_version_tags WHERE key = 'zfleet.seal'"
        assert database.execute(seals).fetchone() == (1,)
        # The first that may write seals it, with the same result.
        assert registry.log(SLUG, "math").newest() == found[1]
        assert database.execute(seals).fetchone() == (2,)


def test_a_writer_whose_clock_is_an_hour_behind_is_noticed(
    put: Put, watching: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an entry is not among the newest ones by time, so only looking at all logs finds it."""
    from mlflow.store.model_registry import sqlalchemy_store

    monkeypatch.setattr(store, "_FEW", 1)
    monkeypatch.setattr(watch, "INTERVAL", 0.02)
    for name in ("late", "math", "code"):
        put(name, seed=1)
    changes = watching()
    put("code", seed=2)
    assert next(changes).action.expert == f"{SLUG}.code"
    behind = time.time_ns() // 1_000_000 - 3_600_000
    monkeypatch.setattr(sqlalchemy_store, "get_current_time_millis", lambda: behind)
    put("late", seed=2)
    monkeypatch.setattr(watch, "_SWEEP_SECONDS", 0.1)
    assert next(changes).action.expert == f"{SLUG}.late"


def test_an_expert_that_was_deleted_and_made_anew(
    registry: ExpertRegistry, put: Put, watching: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    for seed in (1, 2):
        put(seed=seed)
    changes = watching()
    for model in (f"{SLUG}.math", store.log_model(f"{SLUG}.math")):
        registry._client.delete_registered_model(model)
    put(seed=3)
    assert told(changes, 1) == [("register", "", 1)]
    assert "has 1 entries, but 2 were read" in caplog.text


def test_an_entry_that_cannot_be_read_is_named_and_left_out(
    registry: ExpertRegistry, put: Put, watching: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    put(seed=1)
    log = store.log_model(f"{SLUG}.math")
    registry._client.create_model_version(log, "zfleet-log:/x", tags={"zfleet.format": store.FORMAT})
    put(seed=2)
    assert told(watching(Cursor()), 2) == [("register", "", 1), ("register", "", 2)]
    assert f"entry 2 of the log of {SLUG}.math is left out" in caplog.text


def test_models_of_other_programs_are_no_experts(
    registry: ExpertRegistry, put: Put, watching: Callable[..., Watch]
) -> None:
    changes = watching()
    catalog.create_version(registry._client, "somebody-s", "file:/x", {"zfleet.format": EXPERT_FORMAT}, about="")
    put(seed=1)
    assert next(changes).action.expert == f"{SLUG}.math"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--webhooks", "9000"], "--webhooks is '9000'"),
        (["--webhooks", "127.0.0.1:99999"], "--webhooks is '127.0.0.1:99999'"),
        (["--webhook-url", "https://watch.internal/"], "--webhook-url has no effect without --webhooks"),
        (["--since", "yesterday"], "cursor 'yesterday' cannot be read"),
        (["--webhooks", "127.0.0.1:0"], "is a database, which sends no webhooks"),
    ],
)
def test_options_that_cannot_be_used(options: list[str], message: str, root: Path) -> None:
    done = CliRunner().invoke(app, ["experts", "watch", "--registry", f"sqlite:///{root}/mlflow.db", *options])
    assert done.exit_code == 1
    assert message in done.stderr


@pytest.mark.parametrize("text", ["", "x", "e30=", "eJyrVkrLz1eyUjCsBQAZ9wQt", "W10=", "beginning ", "Beginning"])
def test_a_cursor_that_cannot_be_read(text: str) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        Cursor.from_text(text)


def test_cursors_of_many_experts_fit_a_command_line() -> None:
    many = Cursor({f"{SLUG}.expert-{number}": number % 50 + 1 for number in range(10_000)})
    assert Cursor.from_text(many.to_text()) == many
    assert len(many.to_text()) < 100_000


def test_a_database_sends_no_webhooks(reader: ExpertRegistry) -> None:
    with pytest.raises(RegistryError, match="is a database, which sends no webhooks"):
        reader.watch(webhooks=Webhooks())


def test_a_log_tells_what_came_after_an_entry(registry: ExpertRegistry, put: Put) -> None:
    for seed in range(3):
        put(seed=seed)
    log: ExpertLog = registry.log(SLUG, "math")
    assert [entry.number for entry in log.entries(after=1)] == [2, 3]
    assert list(log.entries(after=3)) == []

"""The log in a registry: written before the alias moves, whole after kills, and read at any second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zfleet.errors import RegistryError
from zfleet_registry import ExpertRegistry, ExpertVersion, catalog
from zfleet_registry.aliases import Mismatch
from zfleet_registry.log import Action, Break, Entry, Position, verify
from zfleet_registry.log.store import log_model

Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"
EXPERT = f"{SLUG}.math"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def what(registry: ExpertRegistry) -> list[str]:
    entries = list(registry.log(SLUG, "math").entries())
    assert verify(entries) is None
    return [entry.action.what for entry in entries if isinstance(entry, Entry)]


def test_every_change_is_an_entry(registry: ExpertRegistry, put: Put) -> None:
    first = put(alias="champion")
    second = put(seed=1)
    registry.set_alias(second, "champion", why="it is newer")
    registry.set_alias(second, "champion", why="again, which changes nothing")
    registry.drop_alias(second, "champion")
    assert what(registry) == ["register", "set", "register", "set", "drop"]
    log = registry.log(SLUG, "math")
    moved = log.entry(4)
    assert moved is not None
    assert (moved.action.version, moved.action.found, moved.action.why) == (2, first.version, "it is newer")
    assert moved.action.who
    assert log.before(moved).version_of("champion") == 1
    assert log.state.version_of("champion") is None
    assert log.entry(6) is None
    # A registry's list, and what it resolves, does not see the log.
    assert [version.reference for version in registry.list()] == ["math/1", "math/2"]
    assert registry.list(SLUG) == registry.list()


def test_the_user_of_the_tracking_server_is_recorded(
    registry: ExpertRegistry, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    version = put()
    assert version.registration is not None
    assert version.registration.who == "ann"
    newest = registry.log(SLUG, "math").newest()
    assert newest is not None
    assert newest.action.sentence == "ann registered version 1"
    assert registry._client.get_model_version(log_model(EXPERT), "1").description == newest.action.sentence


def test_the_log_answers_for_every_second(registry: ExpertRegistry, put: Put) -> None:
    put()
    log = registry.log(SLUG, "math")
    # The registration above is of today, before noon in 2030.
    chosen = [(10, 1), (20, 2), (20, 3), (50, 4)]
    for second, version in chosen:
        log.append(Action("set", EXPERT, "champion", version, time=NOON + timedelta(seconds=second)))
    for second in range(60):
        entry = log.at(NOON + timedelta(seconds=second))
        assert entry is not None
        expected = [version for moment, version in chosen if moment <= second]
        assert entry.seal.state.version_of("champion") == (expected[-1] if expected else None)
    assert log.at(NOON - timedelta(days=10_000)) is None


def test_an_entry_whose_writer_was_killed_is_sealed_by_the_next(registry: ExpertRegistry, put: Put) -> None:
    put(alias="champion")
    put(seed=1)
    log = registry.log(SLUG, "math")
    for version in (1, 2):  # Two writers were killed after their entry, before its seal and before the alias moved.
        action = Action("set", EXPERT, "champion", version)
        tags = {"zfleet.format": "zfleet-log/1", "zfleet.action": action.to_json()}
        catalog.create_version(registry._client, log_model(EXPERT), "zfleet-log:/x", tags, about="")
    assert registry.resolve("math", SLUG).version == 1
    aliases = registry.aliases(SLUG, "math")
    assert aliases.mismatches() == [Mismatch("champion", 2, 1)]
    assert aliases.repair() == [Mismatch("champion", 2, 1)]
    assert registry.resolve("math", SLUG).version == 2
    assert aliases.repair() == []
    assert what(registry) == ["register", "set", "register", "set", "set", "repair"]
    assert log.state.aliases["champion"] == Position(2, 5)


def test_an_alias_moved_without_zfleet_is_found(registry: ExpertRegistry, put: Put) -> None:
    put(alias="champion")
    put(seed=1)
    registry._client.set_registered_model_alias(EXPERT, "champion", "2")
    (found,) = registry.aliases(SLUG, "math").mismatches()
    assert str(found) == "champion points at version 2, but the log has it at version 1"
    registry._client.delete_registered_model_alias(EXPERT, "champion")
    (found,) = registry.aliases(SLUG, "math").repair()
    assert str(found) == "champion points at nothing, but the log has it at version 1"
    assert registry.resolve("math@champion", SLUG).version == 1


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda client, model: client.delete_model_version(model, "2"), Break(2, "it was removed")),
        (
            lambda client, model: client.set_model_version_tag(model, "2", "zfleet.action", "{"),
            Break(2, "it cannot be read: JSONDecodeError"),
        ),
        (
            lambda client, model: client.set_model_version_tag(
                model, "2", "zfleet.action", Action("set", EXPERT, "champion", 9, time=NOON, who="eve").to_json()
            ),
            Break(2, "it, or what it is tied to, was changed"),
        ),
    ],
)
def test_a_broken_chain_is_named_and_does_not_stop_work(
    registry: ExpertRegistry, put: Put, damage: Callable[..., None], expected: Break
) -> None:
    put(alias="champion")
    second = put(seed=1)
    damage(registry._client, log_model(EXPERT))
    log = registry.log(SLUG, "math")
    registry.set_alias(second, "champion")
    assert registry.resolve("math", SLUG).version == 2
    broken = verify(log.entries())
    assert broken is not None
    assert broken.number == expected.number
    assert broken.reason.startswith(expected.reason)


def test_an_alias_that_another_command_moved_meanwhile_is_left_alone(registry: ExpertRegistry, put: Put) -> None:
    put(alias="champion")
    put(seed=1, alias="champion")
    aliases = registry.aliases(SLUG, "math")
    with pytest.raises(RegistryError, match="by another command meanwhile"):
        aliases.move(Action("promote", EXPERT, "champion", 1, relies_on=2))
    assert registry.resolve("math", SLUG).version == 2
    assert aliases.mismatches() == []


# Forks after the imports, because importing mlflow in five interpreters would take long.
_WRITERS = """
import multiprocessing, os, sys, mlflow.store.db.utils
from pathlib import Path
from zfleet_registry import ExpertRegistry, catalog
from zfleet_registry.log import Action, ExpertLog

ROOT, SLUG = Path(sys.argv[1]), "lab-1a2b3c4d"

def work(number, barrier):
    registry = ExpertRegistry(root=ROOT)
    if number == 0:  # This one dies after its entry is stored, before it is sealed and before the alias moves.
        ExpertLog._sealed = lambda *_: os.kill(os.getpid(), 9)
    if number == 1:  # This one dies after its entry is sealed, before the alias moves.
        catalog.point_alias = lambda *_: os.kill(os.getpid(), 9)
    barrier.wait()
    for turn in range(4):
        registry.set_alias(registry.resolve(f"math/{1 + (number + turn) % 3}", SLUG), "champion")

context = multiprocessing.get_context("fork")
barrier = context.Barrier(5)
workers = [context.Process(target=work, args=(number, barrier)) for number in range(5)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print([worker.exitcode for worker in workers])
"""


def test_five_processes_append_at_once_and_two_are_killed(registry: ExpertRegistry, root: Path, put: Put) -> None:
    """Real processes, because a kill is what the log has to survive."""
    for seed in range(3):
        put(seed=seed)
    done = subprocess.run(
        [sys.executable, "-c", _WRITERS, str(root)], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.stdout.strip() == str([-signal.SIGKILL, -signal.SIGKILL, 0, 0, 0]), done.stderr
    log = registry.log(SLUG, "math")
    entries = [entry for entry in log.entries() if isinstance(entry, Entry)]
    assert verify(entries) is None
    # An alias that is where it is to be is not set again, so that there may be fewer entries than calls.
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert 3 + 2 < len(entries) <= 3 + 1 + 1 + 3 * 4
    registry.aliases(SLUG, "math").repair()
    assert registry.resolve("math@champion", SLUG).version == log.state.version_of("champion")

"""What dies while a job trains, other than its worker or its driver: each is really killed, at an exact moment.

What each part does about it is in tests/unit. Here are real processes, because Ray and the system report the deaths.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray

from zfleet.engine.contract import EngineStats
from zfleet.errors import RegistryUnreachable
from zfleet_jobs.testing.training import CALLS, GRADED, PROMPTS, STEPS, Place, python, training_place
from zfleet_jobs.train import run as train_run
from zfleet_jobs.train import trainer as train_trainer
from zfleet_jobs.train.plan import TrainedExpert
from zfleet_jobs.train.progress import curves
from zfleet_jobs.train.progress.board import start_board as board_of_the_job
from zfleet_jobs.train.run import run_train
from zfleet_registry import ExpertRegistry
from zfleet_registry.testing import TrackingServer

IN_STEP_3, IN_STEP_4 = (GRADED + steps * PROMPTS + 3 for steps in (2, 3))
GRADERS = f"""
def actors(completion, sample):
    call = _call("actors")
    if call == {IN_STEP_3}:
        _kill("replica")
    if call == {IN_STEP_4}:
        _kill("board")
    return _grade(completion)


def away(completion, sample):
    if _call("away") == {IN_STEP_3}:
        (ROOT / "mlflow.db").rename(ROOT / "away.db")
    return _grade(completion)


def down(completion, sample):
    if _at("down", {IN_STEP_3}):
        _kill("server")
    return _grade(completion)


def gone(completion, sample):
    if _at("gone", {IN_STEP_3}):
        _kill("server")
    return _grade(completion)
"""


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with training_place(tmp_path_factory.mktemp("faults"), tiny_folder, GRADERS) as place:
        yield place


@pytest.fixture(scope="module")
def undisturbed(place: Place, ray_cluster: None) -> str:
    """The digest of the z that all jobs here must end with."""
    return place.undisturbed()


def test_rollout_actor_and_board_killed(
    place: Place,
    undisturbed: str,
    one_replica: Callable[[ModuleType], list[EngineStats]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_replica(train_run)

    def start() -> Any:
        board = board_of_the_job()
        place.process("board", ray.get(board.take.remote()).pid)
        return board

    monkeypatch.setattr(train_trainer, "start_board", start)
    fleet_of_the_job: Any = vars(train_run)["shared_fleet"]  # of one replica

    @contextmanager
    def shared(*arguments: Any) -> Iterator[Any]:
        with fleet_of_the_job(*arguments) as fleet:
            process = ray.get(fleet.actors[0].process.remote())
            place.process("replica", int(process.split()[1]))
            yield fleet

    monkeypatch.setattr(train_run, "shared_fleet", shared)
    (expert,) = run_train(place.spec({"actors": python("actors")}))
    assert expert.z_digest == undisturbed
    assert sum(place.calls("actors").values()) == CALLS, "the worker was not to be restarted"
    assert dict(place.registry.curve(expert.run_id, "reward")).keys() == set(range(1, STEPS + 1))
    replica, board = ((place.root / name).read_text() for name in ("replica", "board"))
    here = socket.gethostname()
    assert f"engine replica 0 (pid {replica} on {here}) died; it is started again" in caplog.text
    assert re.search(rf"engine replica 0 \(pid \d+ on {here}\) is back", caplog.text)
    assert f"the board of the job (pid {board}) died; another one took its place" in caplog.text


class Server(TrackingServer):
    """A tracking server that graders kill."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.root)
        self._place = place

    def start(self) -> None:
        super().start()
        # Negative, the whole group: the server has processes of its own.
        self._place.process("server", -self.group)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    server = Server(place)
    server.start()
    yield server
    server.kill()


def test_the_registry_may_be_away_for_a_while(place: Place, undisturbed: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is missing, as a server that does not answer: the drill below kills a server."""
    away, file = place.root / "away.db", place.root / "mlflow.db"
    back = _after(away, 2, lambda: away.rename(file))
    try:
        (expert,) = run_train(place.spec({"away": python("away")}))
    finally:
        back.join(timeout=60)
    assert expert.z_digest == undisturbed
    _check_curve_and_warnings(place.registry, expert, caplog.text)


@pytest.mark.drill
def test_the_tracking_server_may_be_down_for_a_while(
    place: Place, undisturbed: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    killed = place.root / "down.reached"
    back = _after(killed, 60, server.start)
    try:
        (expert,) = run_train(place.spec({"down": python("down")}, registry=server.uri))
    finally:
        killed.touch()
        back.join()
    assert expert.z_digest == undisturbed
    registry = ExpertRegistry(server.uri)
    assert registry.load(registry.resolve("down", place.slug)).digest == undisturbed
    _check_curve_and_warnings(registry, expert, caplog.text)


def _after(marker: Path, seconds: float, do: Callable[[], object]) -> threading.Thread:
    """Do something some time after a file appeared."""

    def wait() -> None:
        while not marker.exists():
            time.sleep(0.05)
        time.sleep(seconds)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _check_curve_and_warnings(registry: ExpertRegistry, expert: TrainedExpert, warnings: str) -> None:
    """The whole curve is there, and the user heard of it once when the registry left and once when it was back."""
    assert [step for step, _ in registry.curve(expert.run_id, "reward")] == list(range(1, STEPS + 1))
    assert warnings.count(f"the registry {registry.address} does not answer: training goes on") == 1
    assert warnings.count(f"the registry {registry.address} answers again") == 1


@pytest.mark.drill
def test_a_tracking_server_that_stays_away_costs_no_training(
    place: Place, undisturbed: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = place.spec({"gone": python("gone")}, registry=server.uri)
    for module in (curves, train_trainer):
        monkeypatch.setattr(module, "WAIT_SECONDS", 1.0)
    with pytest.raises(RegistryUnreachable, match="expert 'gone' is trained and not registered") as error:
        run_train(spec)
    assert "trains nothing again" in error.value.remedy
    (z,) = place.storage.glob("gone/gone-*/z.safetensors")
    assert str(z) in error.value.message
    server.start()
    (expert,) = run_train(spec)
    assert expert.z_digest == undisturbed
    assert sum(place.calls("gone").values()) == CALLS
    curve = ExpertRegistry(server.uri).curve(expert.run_id, "reward")
    assert [step for step, _ in curve] == list(range(1, STEPS + 1))

"""Webhooks over real HTTP: what MLflow signs is accepted once; anything else is refused and logged."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from zfleet.errors import RegistryError
from zfleet_registry.watch import Webhooks, receiver
from zfleet_registry.watch.receiver import Receiver

SECRET = "of this watch"
BODY = json.dumps({"entity": "model_version", "action": "created", "data": {"name": "log~lab-1a2b3c4d.math"}})


class Clock:
    """This machine's clock, which a test may set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def received() -> list[str]:
    return []


@pytest.fixture
def listening(clock: Clock, received: list[str]) -> Iterator[Receiver]:
    made = Receiver(Webhooks(), SECRET, lambda: received.append(threading.current_thread().name), clock)
    yield made
    made.close()


def signed(delivery: str = "d1", secret: str = SECRET, body: str = BODY, seconds: int = 0) -> dict[str, str]:
    """Sign as MLflow does, by a clock that is ``seconds`` ahead."""
    sent = str(int(time.time()) + seconds)
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": sent,
        "X-MLflow-Signature": _generate_hmac_signature(secret, delivery, sent, body),
    }


def test_a_webhook_is_accepted_once(listening: Receiver, received: list[str], caplog: pytest.LogCaptureFixture) -> None:
    headers = signed()
    assert httpx.post(listening.url, content=BODY, headers=headers).status_code == 204
    assert received == ["webhooks"]
    again = httpx.post(listening.url, content=BODY, headers=headers)
    assert (again.status_code, again.json()) == (409, {"error": "refused"})
    assert received == ["webhooks"]
    assert "it was sent before" in caplog.text
    assert httpx.post(listening.url, content=BODY, headers=signed("d2")).status_code == 204
    assert len(received) == 2


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (signed(secret="another"), "its signature is wrong"),
        (signed(body=BODY + " "), "its signature is wrong"),
        (signed() | {"X-MLflow-Delivery-Id": "d9"}, "its signature is wrong"),
        (signed() | {"X-MLflow-Timestamp": "17"}, "its signature is wrong"),
        (signed() | {"X-MLflow-Signature": "v1,"}, "its signature is wrong"),
        ({}, "it has no signature"),
        (signed(delivery=""), "it has no delivery id"),
    ],
)
def test_a_webhook_that_nothing_proves(
    headers: dict[str, str], reason: str, listening: Receiver, received: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    refused = httpx.post(listening.url, content=BODY, headers=headers)
    assert (refused.status_code, refused.json()) == (401, {"error": "refused"})
    assert received == []
    assert reason in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("seconds", "words"), [(3600, "s ahead of"), (-3600, "s behind")])
def test_a_server_whose_clock_is_an_hour_off_is_told_apart(
    seconds: int, words: str, listening: Receiver, received: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    refused = httpx.post(listening.url, content=BODY, headers=signed(seconds=seconds))
    assert (refused.status_code, refused.json()) == (409, {"error": "refused"})
    assert received == []
    assert words in caplog.text
    assert "changes are noticed by polling" in caplog.text


def test_an_old_webhook_cannot_be_sent_again(listening: Receiver, clock: Clock, received: list[str]) -> None:
    """The receiver forgets deliveries, but only when their time is over."""
    headers = signed()
    assert httpx.post(listening.url, content=BODY, headers=headers).status_code == 204
    for ahead in (200, 299, 400, 900, 3600):
        clock.ahead = ahead
        httpx.post(listening.url, content=BODY, headers=signed(f"at {ahead}", seconds=ahead))
        assert httpx.post(listening.url, content=BODY, headers=headers).status_code == 409
    assert len(received) == 6


def test_a_body_that_is_too_large(listening: Receiver, received: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "LARGEST_BODY", 100)
    assert httpx.post(listening.url, content=b"x" * 101, headers=signed()).status_code == 413
    assert httpx.get(listening.url).status_code == 405
    assert received == []


def test_a_flood_is_not_logged_whole(listening: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(30):
        httpx.post(listening.url, content=BODY)
    assert len([one for one in caplog.records if one.name == receiver.logger.name]) == 10


def test_only_this_machine_reaches_it_by_default(listening: Receiver) -> None:
    assert listening.url.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken(listening: Receiver) -> None:
    port = int(listening.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(RegistryError, match="webhooks cannot be received at") as caught:
        Receiver(Webhooks(port=port), SECRET, lambda: None)
    assert "another port" in caught.value.remedy


def test_it_stops(clock: Clock) -> None:
    made = Receiver(Webhooks(), SECRET, lambda: None, clock)
    made.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(made.url.rstrip("/").rpartition(":")[2]))) != 0

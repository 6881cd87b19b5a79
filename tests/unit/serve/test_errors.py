"""What clients are told of errors: never a file or an address of the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from zfleet import errors
from zfleet.errors import (
    BodyTooLarge,
    CorruptArtifact,
    DeadlineExceeded,
    EngineError,
    ExpertNotFound,
    InvalidRequest,
    LimitReached,
    NotAllowed,
    NotAuthenticated,
    Overloaded,
    RegistryUnreachable,
    RequestTooLong,
    TaskError,
    UnknownZ,
    ZfleetError,
)
from zfleet_serve.adaptive.names import ModelNotFound
from zfleet_serve.http.errors import describe, public

LATER = (Overloaded, DeadlineExceeded)
"""Nobody's mistakes: clients read them, too."""
FOR_CLIENTS = (
    *(InvalidRequest, RequestTooLong, BodyTooLarge, TaskError, ModelNotFound),
    *(NotAuthenticated, NotAllowed, LimitReached, *LATER),
)
SECRETS = ("sqlite", "/srv", "mlflow.db", "db.internal", "5432", "/home/ann/project")
MESSAGE = "registry sqlite:////srv/runs/mlflow.db, file /srv/runs/artifacts/z.safetensors, asked too much"
REMEDY = "look at '/home/ann/project' or postgresql://db.internal:5432/mlflow"


def every_error(kind: type[ZfleetError] = ZfleetError) -> Iterator[type[ZfleetError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from every_error(child)


@pytest.mark.parametrize("kind", [kind for kind in dict.fromkeys(every_error()) if kind.__module__[:6] == "zfleet"])
def test_no_error_gives_away_a_file_or_an_address(kind: type[ZfleetError], caplog: pytest.LogCaptureFixture) -> None:
    status, body = describe(kind(MESSAGE, REMEDY))
    said = json.dumps(body)
    assert not [secret for secret in SECRETS if secret in said]
    assert body["error"].keys() == {"message", "type", "param", "code"}
    mistake = issubclass(kind, FOR_CLIENTS)
    assert ("asked too much" in said) == mistake
    assert (status < 500) == ((mistake and kind not in LATER) or issubclass(kind, ExpertNotFound))
    # Who runs the service reads all of it.
    assert (MESSAGE in caplog.text) == (not mistake)


def test_every_error_is_tried() -> None:
    assert {UnknownZ, CorruptArtifact, errors.JobError, ModelNotFound} <= set(every_error())


@pytest.mark.parametrize(
    ("error", "status", "code", "param", "said"),
    [
        (ModelNotFound("model 'lab:x'"), 404, "model_not_found", "model", "model 'lab:x'"),
        (ExpertNotFound("x of lab in /srv/db"), 404, "model_not_found", "model", "there is no such model"),
        (
            RegistryUnreachable("m", "r", "timed out"),
            503,
            "registry_unavailable",
            "model",
            "is away: timed out",
        ),
        (RegistryUnreachable("m"), 503, "registry_unavailable", "model", "it does not answer"),
        (CorruptArtifact("z"), 500, "CorruptArtifact", "model", "missing or damaged"),
        (EngineError("died"), 500, "EngineError", None, "send it again"),
        (RequestTooLong("201 > 200"), 400, "context_length_exceeded", None, "201 > 200"),
    ],
)
def test_what_clients_are_told(error: ZfleetError, status: int, code: str, param: str | None, said: str) -> None:
    found, body = describe(error)
    assert (found, body["error"]["code"], body["error"]["param"]) == (status, code, param)
    assert said in body["error"]["message"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model 'lab:math/3' and lab:a@b", "model 'lab:math/3' and lab:a@b"),
        ("roles must alternate user/assistant/user", "roles must alternate user/assistant/user"),
        ("1/2 or /think", "1/2 or /think"),
        ("in /srv/a b/c.db: no", "in ... b/c.db: no"),
        ("('/srv/a.db', 3)", "('...', 3)"),
        ("at http://10.0.0.1:5000/x y", "at ... y"),
    ],
)
def test_places_are_taken_out_and_nothing_else(text: str, shown: str) -> None:
    assert public(text) == shown


def test_a_long_text_takes_no_time() -> None:
    assert public("a" * 1_000_000 + "/" * 1000) == "a" * 1_000_000 + "/" * 1000


@pytest.fixture(autouse=True)
def _all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

"""``zfleet keys``: secrets are printed once, and nothing else shows them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from zfleet_cli.main import app
from zfleet_serve.access.amount import Amount
from zfleet_serve.access.database import Database
from zfleet_serve.access.key_text import parse_key
from zfleet_serve.access.usage import Place, UsageStore, today


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "keys.db")


def keys(place: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments, "--keys", place], env={"COLUMNS": "80"})


def as_json(place: str, *arguments: str) -> Any:
    result = keys(place, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_secret_is_printed_once_and_to_the_output_alone(place: str) -> None:
    created = keys(place, "create", "a team", "--expert", "math", "--expert", "auto", "--no-mixtures")
    text = parse_key(created.stdout.strip())
    assert text is not None
    assert text.secret not in created.stderr
    assert "shown this once" in created.stderr
    shown = [keys(place, *words) for words in (("list",), ("show", text.id), ("list", "--json"), ("revoke", text.id))]
    assert all(result.exit_code == 0 and text.id in result.output for result in shown)
    hidden = (text.secret, "scrypt")
    assert not any(secret in result.output for result in shown for secret in hidden)


def test_settings_and_rotation(place: str) -> None:
    limits = ("--requests-per-minute", "10", "--tokens-per-minute", "1000", "--tokens-per-month", "100000")
    more = ("--weight", "2.5", "--priority", "high", "--lenient", "--default-model", "lab:math", "--expires", "30d")
    created = as_json(place, "create", "a team", "--route", "/v1/*", *limits, *more)
    shown = as_json(place, "show", created["id"])
    assert shown == {name: value for name, value in created.items() if name != "key"}
    expected = {"routes": ["/v1/*"], "experts": ["*"], "weight": 2.5, "priority": "high", "tokens_per_minute": 1000}
    assert shown.items() >= expected.items()
    rotated = as_json(place, "rotate", created["id"], "--grace", "15m")
    assert rotated["key"] != created["key"]
    assert rotated["old_secret_until"] is not None
    assert as_json(place, "revoke", created["id"])["state"] == "revoked"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("create", "a", "--priority", "urgent"), "priority"),
        (("create", "a", "--expires", "soon"), "soon"),
        (("create", "a", "--expires", "2020-01-01"), "expire"),
        (("rotate", "0123456789ab", "--grace", "1 hour"), "1 hour"),
        (("show", "0123456789ab"), "0123456789ab"),
        (("usage", "--csv", "--json"), "--csv"),
        (("usage", "--since", "yesterday"), "yesterday"),
    ],
)
def test_mistakes_are_named_with_a_remedy(place: str, arguments: tuple[str, ...], named: str) -> None:
    result = keys(place, *arguments)
    assert result.exit_code == 1
    assert named in result.stderr
    assert "remedy" in result.stderr


def test_usage_as_table_csv_and_json(place: str) -> None:
    key_id = as_json(place, "create", "a team")["id"]
    amount = Amount(12_345, 123_456_789, 23_456_789, 3_456_789)
    UsageStore(Database(place)).add(
        [(Place(today(), key_id, "math+sort"), amount), (Place(today(), key_id, ""), amount)]
    )
    table = keys(place, "usage").stdout
    assert max(map(len, table.splitlines())) <= 80
    assert "(base)" in table
    rows = list(csv.DictReader(io.StringIO(keys(place, "usage", "--csv").stdout)))
    assert [row["expert"] for row in rows] == ["", "math+sort"]
    assert rows[0]["prompt_tokens"] == "123456789"
    assert as_json(place, "usage", "--key", key_id)[0]["completion_tokens"] == 23_456_789
    assert as_json(place, "usage", "--key", "0123456789ab") == []


def test_tables_fit_eighty_columns(place: str) -> None:
    for name in ("a team", "a name of a team that is rather long"):
        as_json(place, "create", name, "--expert", "math", "--expert", "sort", "--expires", "30d")
    assert max(map(len, keys(place, "list").stdout.splitlines())) <= 80

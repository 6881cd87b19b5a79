"""Keys and usage in a database."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zfleet.errors import KeysError
from zfleet_serve.access.amount import Amount
from zfleet_serve.access.database import Database, database_uri
from zfleet_serve.access.key_store import KeyStore
from zfleet_serve.access.key_text import matches, parse_key
from zfleet_serve.access.usage import Place, UsageStore, month_start, today
from zfleet_serve.access.usage_batch import UsageBatch


def test_a_key_is_stored_without_its_secret(store: KeyStore, place: str) -> None:
    key, text = store.create("a team", {"experts": ["math"], "weight": 2.0})
    assert store.get(key.id) == key == store.all()[0]
    assert parse_key(text.reveal()) == text
    assert matches(text.secret, key.secret_hash)
    assert text.secret.encode() not in Path(place).read_bytes()
    assert text.secret not in repr(text)
    assert stat.S_IMODE(Path(place).stat().st_mode) == 0o600


def test_two_keys_with_the_same_secret_would_have_other_hashes(store: KeyStore) -> None:
    key, text = store.create("one", {})
    again, _ = store.rotate(key.id, 60)
    assert again.old_hash == key.secret_hash != again.secret_hash
    assert not matches(text.secret, again.secret_hash)


def test_an_old_secret_is_valid_for_its_grace_time(store: KeyStore) -> None:
    key, old = store.create("one", {})
    key, new = store.rotate(key.id, 60)
    now = time.time()
    assert key.verified_by(old.secret, now) == key.old_hash
    assert key.verified_by(new.secret, now) == key.secret_hash
    assert key.verified_by(old.secret, now + 61) is None
    assert key.verified_by(new.secret, now + 61) == key.secret_hash


def test_a_revoked_key_stays_revoked(store: KeyStore) -> None:
    key, text = store.create("one", {})
    before = store.change_number()
    revoked = store.revoke(key.id)
    assert store.change_number() == before + 1
    assert store.revoke(key.id) == revoked
    assert revoked.verified_by(text.secret, time.time()) is None
    with pytest.raises(KeysError, match="revoked"):
        store.rotate(key.id, 60)


def test_a_key_ends_when_it_expires(store: KeyStore) -> None:
    key, text = store.create("one", {}, time.time() + 100)
    assert key.state(time.time()) == "active"
    assert key.state(time.time() + 101) == "expired"
    assert key.verified_by(text.secret, time.time() + 101) is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"experts": ["ma th"]}, "ma th"),
        ({"routes": ["v1"]}, "v1"),
        ({"weight": 0}, "weight"),
        ({"weight": float("inf")}, "weight"),
        ({"priority": "urgent"}, "priority"),
        ({"tokens_per_month": 0}, "tokens_per_month"),
        ({"wait": 1}, "wait"),
    ],
)
def test_settings_that_cannot_be_used_are_named(store: KeyStore, settings: dict[str, object], named: str) -> None:
    with pytest.raises(KeysError, match=named):
        store.create("one", settings)
    assert store.all() == []


def test_a_name_is_one_line_and_a_key_does_not_expire_at_once(store: KeyStore) -> None:
    with pytest.raises(KeysError, match="name"):
        store.create("two\nlines", {})
    with pytest.raises(KeysError, match="expire"):
        store.create("one", {}, time.time() - 1)
    with pytest.raises(KeysError, match="0123456789ab"):
        store.get("0123456789ab")


def test_many_processes_may_start_at_once(place: str) -> None:
    """In processes, because threads of one share the locks of a file."""
    program = (
        "import sys; from zfleet_serve.access.database import Database; "
        "from zfleet_serve.access.key_store import KeyStore; KeyStore(Database(sys.argv[1])).create('one', {})"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, place]) for _ in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    assert len(KeyStore(Database(place)).all()) == 4


@pytest.mark.parametrize(
    "place",
    ["mysql://me:secret@host/keys", "http://me:secret@host", "postgresql://me:sec/ret@host/keys", "sqlite:///:memory:"],
)
def test_a_place_that_holds_no_keys_is_refused_without_its_password(place: str) -> None:
    with pytest.raises(KeysError) as refused:
        database_uri(place)
    assert "sec" not in str(refused.value)


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(KeysError, match=r"postgresql://127\.0\.0\.1:1/keys") as refused:
        Database("postgresql://me:secret@127.0.0.1:1/keys")
    assert "secret" not in str(refused.value)


def test_usage_adds_up(store: KeyStore) -> None:
    usage = UsageStore(store.database)
    place, other = Place("2026-01-31", "a", "math"), Place("2026-02-01", "b", "")
    usage.add([(place, Amount(1, 2, 3, 4)), (other, Amount(1, 1, 1, 1))])
    usage.add([(place, Amount(1, 2, 3, 4))])
    assert usage.read("2026-01-01") == [(place, Amount(2, 4, 6, 8)), (other, Amount(1, 1, 1, 1))]
    assert usage.read("2026-01-01", "b") == [(other, Amount(1, 1, 1, 1))]
    assert usage.read("2026-02-01") == [(other, Amount(1, 1, 1, 1))]


def test_a_batch_is_counted_before_and_after_it_is_written(store: KeyStore) -> None:
    usage = UsageStore(store.database)
    usage.add([(Place(today(), "a", ""), Amount(1, 100)), (Place("2000-01-01", "a", ""), Amount(1, 5000))])
    batch = UsageBatch(usage)
    batch.write()
    assert batch.month_tokens("a") == 100
    batch.add("a", "math", Amount(1, 10, 5))
    batch.add("a", "math", Amount(1, 10, 5))
    assert batch.month_tokens("a") == 130
    batch.take()
    assert batch.month_tokens("a") == 130
    batch.write()
    assert batch.month_tokens("a") == 130
    assert usage.read(month_start())[-1] == (Place(today(), "a", "math"), Amount(2, 20, 10))


def test_a_batch_that_could_not_be_written_is_kept(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = UsageStore(store.database)
    batch = UsageBatch(usage)
    batch.add("a", "", Amount(1, 10))
    with monkeypatch.context() as away:
        away.setattr(usage, "add", lambda _: (_ for _ in ()).throw(KeysError("away")))
        batch.take()
        with pytest.raises(KeysError):
            batch.write()
    batch.add("a", "", Amount(1, 1))
    batch.take()
    batch.write()
    assert [amount for _, amount in usage.read(month_start())] == [Amount(2, 11)]


def test_usage_that_was_stored_is_not_stored_again_when_the_sums_cannot_be_read(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = UsageStore(store.database)
    batch = UsageBatch(usage)
    batch.write()
    read = usage.tokens_of_month

    def away() -> dict[str, int]:
        raise KeysError("it is away", "wait")

    monkeypatch.setattr(usage, "tokens_of_month", away)
    batch.add("a", "math", Amount(1, 10, 5))
    batch.take()
    with pytest.raises(KeysError, match="it is away"):
        batch.write()
    assert batch.month_tokens("a") == 15
    monkeypatch.setattr(usage, "tokens_of_month", read)
    batch.take()
    batch.write()
    assert batch.month_tokens("a") == 15
    assert usage.tokens_of_month() == {"a": 15}

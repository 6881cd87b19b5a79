"""Keys as a gateway checks them: fast once verified, and never fooled by what was valid before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from zfleet.errors import LimitReached, NotAuthenticated, Overloaded
from zfleet_serve.access import key_text, keyring, keys
from zfleet_serve.access.key_store import KeyStore
from zfleet_serve.access.key_text import new_key
from zfleet_serve.access.keyring import WRONG_A_MINUTE, Keyring


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that were hashed."""
    secrets: list[str] = []
    original: Callable[[str, str], bool] = key_text.matches

    def matches(secret: str, stored: str) -> bool:
        secrets.append(secret)
        return original(secret, stored)

    monkeypatch.setattr(keys, "matches", matches)
    return secrets


async def test_a_key_is_hashed_once(store: KeyStore, hashed: list[str]) -> None:
    key, text = store.create("one", {})
    ring = Keyring(store)
    ring.refresh()
    found = await asyncio.gather(*(ring.verify(text.reveal(), "here") for _ in range(10)))
    assert [await ring.verify(text.reveal(), "here"), *found] == [key] * 11
    assert hashed == [text.secret]
    ring.close()


async def test_a_change_counts_from_the_next_refresh_on(store: KeyStore) -> None:
    key, old = store.create("one", {})
    ring = Keyring(store)
    ring.refresh()
    await ring.verify(old.reveal(), "here")
    _, new = store.rotate(key.id, grace_seconds=0)
    ring.refresh()
    with pytest.raises(NotAuthenticated):
        await ring.verify(old.reveal(), "here")
    assert (await ring.verify(new.reveal(), "here")).id == key.id
    store.revoke(key.id)
    ring.refresh()
    ring.forget_ended()
    with pytest.raises(NotAuthenticated):
        await ring.verify(new.reveal(), "here")
    assert ring._verified == {}
    ring.close()


async def test_what_is_wrong_is_not_said(store: KeyStore) -> None:
    key, text = store.create("one", {})
    gone, of_gone = store.create("two", {})
    store.revoke(gone.id)
    ring = Keyring(store)
    ring.refresh()
    wrong = [None, "", "zf-1", f"zf-{key.id}.{new_key().secret}", new_key().reveal(), of_gone.reveal(), text.secret]
    said = set()
    for sent in wrong:
        with pytest.raises(NotAuthenticated) as refused:
            await ring.verify(sent, "here")
        said.add(str(refused.value))
    assert len(said) == 1
    ring.close()


async def test_wrong_keys_cost_little_and_do_not_shut_out_others(store: KeyStore, hashed: list[str]) -> None:
    key, text = store.create("one", {})
    ring = Keyring(store)
    ring.refresh()
    await ring.verify(text.reveal(), "here")
    for _ in range(WRONG_A_MINUTE.amount):
        with pytest.raises(NotAuthenticated):
            await ring.verify(new_key().reveal(), "here")
    assert hashed == [text.secret], "an id that does not exist costs no hash"
    with pytest.raises(LimitReached):
        await ring.verify(f"zf-{key.id}.{new_key().secret}", "here")
    assert await ring.verify(text.reveal(), "here") == key
    with pytest.raises(NotAuthenticated):
        await ring.verify(f"zf-{key.id}.{new_key().secret}", "elsewhere")
    ring.close()


async def test_few_keys_are_verified_at_once(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MOST_VERIFYING", 3)
    key, _ = store.create("one", {})
    ring = Keyring(store)
    ring.refresh()
    asked = [ring.verify(f"zf-{key.id}.{new_key().secret}", f"10.0.0.{place}") for place in range(5)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert (
        sorted(type(error).__name__ for error in ended) == [NotAuthenticated.__name__] * 3 + [Overloaded.__name__] * 2
    )
    ring.close()

"""A database of keys in a file, fresh for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zfleet_serve.access.database import Database
from zfleet_serve.access.key_store import KeyStore


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "keys" / "keys.db")


@pytest.fixture
def store(place: str) -> Iterator[KeyStore]:
    database = Database(place)
    yield KeyStore(database)
    database.close()

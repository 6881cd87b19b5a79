"""Keys in the database: created, changed and read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from pydantic import ValidationError

from zfleet.config.explain import explain
from zfleet.errors import KeysError
from zfleet_serve.access.database import Database, changes, insert, keys
from zfleet_serve.access.key_text import KeyText, new_key, slow_hash
from zfleet_serve.access.keys import Key, KeyName, KeySettings


@dataclass(frozen=True)
class KeyStore:
    """The keys of a service.

    Attributes:
        database: Where they are.
    """

    database: Database

    def create(self, name: str, settings: Mapping[str, Any], expires: float | None = None) -> tuple[Key, KeyText]:
        """Create a key.

        Args:
            name: A name for people.
            settings: Values of ``KeySettings``.
            expires: When it ends, in seconds since 1970; None is never.

        Returns:
            The key, and its text with the secret, which is stored nowhere.

        Raises:
            KeysError: A value cannot be used, or the database does not answer.
        """
        try:
            KeyName(name=name)
            checked = KeySettings.model_validate(dict(settings))
        except ValidationError as error:
            kind = KeySettings if error.title == KeySettings.__name__ else KeyName
            problems = "; ".join(explain(error, kind))
            raise KeysError(f"a key cannot have these settings: {problems}", "`zfleet keys create --help`") from None
        text, now = new_key(), time.time()
        if expires is not None and expires <= now:
            raise KeysError("the key would expire before it is created", "give a time in the future")
        key = Key(text.id, name, checked, now, expires, None, slow_hash(text.secret), None, None)
        with self.database.transaction() as connection:
            connection.execute(keys.insert().values(**vars(key) | {"settings": checked.model_dump_json()}))
            _count_change(connection)
        return key, text

    def rotate(self, key_id: str, grace_seconds: float) -> tuple[Key, KeyText]:
        """Give a key a new secret.

        Args:
            key_id: The id of the key.
            grace_seconds: How long the present secret stays valid; an older one ends now.

        Returns:
            The key, and its text with the new secret.

        Raises:
            KeysError: There is no such key, it has ended, or the database does not answer.
        """
        text, now = KeyText(key_id, new_key().secret), time.time()
        hashed = slow_hash(text.secret)
        with self.database.transaction() as connection:
            key = self._get(connection, key_id)
            if (state := key.state(now)) != "active":
                raise KeysError(f"key {key_id} is {state}: it has no secret to rotate", "create another key")
            values = {"secret_hash": hashed, "old_hash": key.secret_hash, "old_until": now + grace_seconds}
            self._change(connection, key_id, values)
            return self._get(connection, key_id), text

    def revoke(self, key_id: str) -> Key:
        """End a key for good. Revoking it again changes nothing.

        Raises:
            KeysError: There is no such key, or the database does not answer.
        """
        with self.database.transaction() as connection:
            if self._get(connection, key_id).revoked is None:
                self._change(connection, key_id, {"revoked": time.time()})
            return self._get(connection, key_id)

    def get(self, key_id: str) -> Key:
        """Return one key.

        Raises:
            KeysError: There is no such key, or the database does not answer.
        """
        with self.database.transaction() as connection:
            return self._get(connection, key_id)

    def all(self) -> list[Key]:
        """Return all keys, the oldest first.

        Raises:
            KeysError: The database does not answer.
        """
        with self.database.transaction() as connection:
            return [_key(row) for row in connection.execute(keys.select().order_by(keys.c.created, keys.c.id))]

    def change_number(self) -> int:
        """Return how often keys were changed.

        Raises:
            KeysError: The database does not answer.
        """
        with self.database.transaction() as connection:
            return connection.execute(sql.select(changes.c.number)).scalar() or 0

    def _get(self, connection: sql.Connection, key_id: str) -> Key:
        row = connection.execute(keys.select().where(keys.c.id == key_id)).one_or_none()
        if row is None:
            raise KeysError(f"there is no key {key_id!r} in {self.database.address}", "`zfleet keys list` lists them")
        return _key(row)

    def _change(self, connection: sql.Connection, key_id: str, values: Mapping[str, Any]) -> None:
        connection.execute(keys.update().where(keys.c.id == key_id).values(**values))
        _count_change(connection)


def _count_change(connection: sql.Connection) -> None:
    first = insert(connection, changes).values(only=1, number=1)
    connection.execute(first.on_conflict_do_update(index_elements=["only"], set_={"number": changes.c.number + 1}))


def _key(row: sql.Row[Any]) -> Key:
    values = dict(row._mapping)
    return Key(**values | {"settings": KeySettings.model_validate_json(values["settings"])})

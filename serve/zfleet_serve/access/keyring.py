"""The keys as a gateway knows them: checked for each request, and read again within a second of a change."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from zfleet.errors import LimitReached, NotAuthenticated, Overloaded
from zfleet_serve.access.key_store import KeyStore
from zfleet_serve.access.key_text import KeyText, parse_key
from zfleet_serve.access.keys import Key

WRONG_A_MINUTE = RateLimitItemPerMinute(20)
"""Wrong keys of one address; after them, only keys that were verified before are accepted from there."""
MOST_VERIFYING = 32
"""Keys that wait for their slow hash."""

_REFUSED = "no valid API key was given"
_REMEDY = "send `Authorization: Bearer` with a key of `zfleet keys create`; it may have expired or been revoked"


class Keyring:
    """Verifies keys.

    The slow hash runs once for each secret and process, in one thread; afterwards a digest under a random key of this
    process finds the secret in a table, which tells nothing by its timing. Ids that do not exist cost no hash.

    Args:
        store: The keys.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._keys: dict[str, Key] = {}
        self._change = -1
        self._digest_key = secrets.token_bytes(32)
        # {digest of a secret that was verified: (key id, the hash that it fitted)}
        self._verified: dict[bytes, tuple[str, str]] = {}
        self._thread = ThreadPoolExecutor(1, "verifies keys")
        self._verifying: dict[bytes, asyncio.Task[Key]] = {}
        self._wrong = FixedWindowRateLimiter(MemoryStorage())

    def refresh(self) -> None:
        """Read the keys if they were changed. Blocks.

        Raises:
            KeysError: The database does not answer; the keys as they were read before stay in use.
        """
        number = self._store.change_number()
        if number != self._change:
            self._keys = {key.id: key for key in self._store.all()}
            self._change = number

    def forget_ended(self) -> None:
        """Forget verified secrets that are not accepted any more."""
        now = time.time()
        self._verified = {
            digest: (key_id, stored)
            for digest, (key_id, stored) in self._verified.items()
            if key_id in self._keys and stored in self._keys[key_id].usable_hashes(now)
        }

    async def verify(self, sent: str | None, peer: str) -> Key:
        """Return the key that a client sent.

        Args:
            sent: The key as it was sent; None if there was none.
            peer: The client's address.

        Raises:
            NotAuthenticated: There is no key, or it is wrong, expired or revoked; does not say which.
            LimitReached: This address sent too many wrong keys.
            Overloaded: Too many keys wait for their verification.
        """
        text = None if sent is None else parse_key(sent)
        if text is None:
            raise NotAuthenticated(_REFUSED, _REMEDY)
        digest = hashlib.blake2b(text.reveal().encode(), key=self._digest_key).digest()
        if (known := self._known(digest)) is not None:
            return known
        if not await self._wrong.test(WRONG_A_MINUTE, peer):
            raise LimitReached("this address sent too many wrong keys", "wait a minute, and send a valid key", 60.0)
        key = self._keys.get(text.id)
        if key is not None and key.usable_hashes(time.time()):
            if digest not in self._verifying:
                self._begin(digest, key, text)
            try:
                return await asyncio.shield(self._verifying[digest])
            except NotAuthenticated:
                pass
        await self._wrong.hit(WRONG_A_MINUTE, peer)
        raise NotAuthenticated(_REFUSED, _REMEDY)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _known(self, digest: bytes) -> Key | None:
        key_id, stored = self._verified.get(digest, ("", ""))
        key = self._keys.get(key_id)
        return key if key is not None and stored in key.usable_hashes(time.time()) else None

    def _begin(self, digest: bytes, key: Key, text: KeyText) -> None:
        if len(self._verifying) >= MOST_VERIFYING:
            raise Overloaded("too many keys are being verified", "send it again")
        task = asyncio.create_task(self._verify(digest, key, text))
        self._verifying[digest] = task

        def end(task: asyncio.Task[Key]) -> None:
            self._verifying.pop(digest, None)
            if not task.cancelled():
                task.exception()  # whoever waited for it may have left

        task.add_done_callback(end)

    async def _verify(self, digest: bytes, key: Key, text: KeyText) -> Key:
        loop = asyncio.get_running_loop()
        stored = await loop.run_in_executor(self._thread, key.verified_by, text.secret, time.time())
        if stored is None:
            raise NotAuthenticated(_REFUSED, _REMEDY)
        self._verified[digest] = (key.id, stored)
        return key

"""Check that a webhook was sent by the tracking server, just now, and for the first time.

MLflow signs as Standard Webhooks do: HMAC-SHA256 of ``{delivery id}.{time}.{body}``, in base64 after ``v1,``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SIGNATURE, TIME, DELIVERY = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"
_VERSION = "v1,"
WINDOW_SECONDS = 300
"""How far the time of a webhook may be from this machine's clock; Standard Webhooks suggest five minutes."""


class RefusedWebhook(Exception):
    """A webhook that is not acted on.

    Attributes:
        status: The HTTP status for its sender: 401 if nothing proves who sent it, 409 if it may be an old one.
        reason: For the log of the receiver; the sender is not told.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass
class Verifier:
    """Verifies webhooks. Several threads may use it at once.

    Attributes:
        secret: What the tracking server signs with.
        clock: Seconds since 1970 by this machine.
    """

    secret: str = field(repr=False)
    clock: Callable[[], float]
    _accepted: dict[str, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Accept a webhook, or raise.

        Args:
            headers: {name in lower case: value}.
            body: The body as it was sent.

        Raises:
            RefusedWebhook: It is not signed with the secret, its time is not now, or it was accepted before.
        """
        delivery, sent = headers.get(DELIVERY, ""), headers.get(TIME, "")
        expected = _VERSION + base64.b64encode(
            hmac.digest(self.secret.encode(), b".".join((delivery.encode(), sent.encode(), body)), hashlib.sha256)
        ).decode("ascii")
        given = headers.get(SIGNATURE, "")
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise RefusedWebhook(401, "its signature is wrong" if given else "it has no signature")
        if not delivery or not (sent.isascii() and sent.isdecimal()):
            raise RefusedWebhook(401, "it has no delivery id, or no time")
        now = self.clock()
        off = int(sent) - now
        if abs(off) > WINDOW_SECONDS:
            raise RefusedWebhook(
                409,
                f"its time is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's clock. It was sent "
                "again, or the tracking server's clock or this one is wrong. Until that is corrected, changes are "
                "noticed by polling",
            )
        with self._lock:
            # An older one is refused by its time.
            for old in [one for one, at in self._accepted.items() if abs(at - now) > 2 * WINDOW_SECONDS]:
                del self._accepted[old]
            if delivery in self._accepted:
                raise RefusedWebhook(409, "it was sent before")
            self._accepted[delivery] = now

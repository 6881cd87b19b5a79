"""Have the tracking server send webhooks to a watch, as long as the watch lives."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final

from zfleet.errors import RegistryError
from zfleet_registry.catalog import all_webhooks
from zfleet_registry.connect import Connection
from zfleet_registry.watch.address import Webhooks
from zfleet_registry.watch.receiver import Receiver

logger = logging.getLogger(__name__)

_NAME = "zfleet-watch"
_EVENT: Final = "model_version.created"
"""Entries of logs are versions of models."""


def subscribe(connection: Connection, webhooks: Webhooks, received: Callable[[], None]) -> Callable[[], None]:
    """Listen, and have the tracking server call.

    A server that cannot or may not send webhooks is named in a warning, and nothing is listened to: the watch polls.
    MLflow remembers its webhooks for a minute, so the first ones may come as late as that.

    Args:
        connection: The registry.
        webhooks: Where to listen.
        received: Called for each accepted webhook.

    Returns:
        Ends both.

    Raises:
        RegistryError: The port cannot be listened on, or the registry is a database, which calls nobody.
        RegistryUnreachable: The registry does not answer.
    """
    if not connection.is_server:
        raise RegistryError(
            f"the registry {connection.address} is a database, which sends no webhooks",
            "leave the webhooks out: changes are noticed within two seconds without them",
        )
    secret = secrets.token_urlsafe(32)
    receiver = Receiver(webhooks, secret, received)
    try:
        created = _create(connection, receiver.url, secret)
    except BaseException:
        receiver.close()
        raise
    if created is None:
        receiver.close()
        return lambda: None

    def end() -> None:
        try:
            _delete(connection, created)
        except RegistryError as error:
            logger.warning("the webhook of this watch stays in MLflow: %s", error.message)
        receiver.close()

    return end


def _create(connection: Connection, url: str, secret: str) -> str | None:
    from mlflow.exceptions import MlflowException

    with connection.answering("create a webhook"):
        try:
            # A watch that was killed at this address left its webhook.
            for left in all_webhooks(connection.client):
                if left.name == _NAME and left.url == url:
                    connection.client.delete_webhook(left.webhook_id)
            return str(connection.client.create_webhook(_NAME, url, [_EVENT], secret=secret).webhook_id)
        except MlflowException as error:
            # It may be away, or have no webhooks, or not allow this one.
            connection.probe()
            logger.warning(
                "the tracking server sends no webhooks to %s: %s; changes are noticed by polling",
                url,
                connection.reason(error),
            )
            return None


def _delete(connection: Connection, webhook: str) -> None:
    with connection.answering("delete the webhook"):
        connection.client.delete_webhook(webhook)

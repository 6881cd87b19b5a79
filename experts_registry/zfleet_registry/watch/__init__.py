"""Watching a registry: every change that its logs record, within two seconds, and none lost over restarts."""

from zfleet_registry.watch.address import Webhooks
from zfleet_registry.watch.cursor import Cursor
from zfleet_registry.watch.watch import Watch

__all__ = ["Cursor", "Watch", "Webhooks"]

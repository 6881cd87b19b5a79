"""A bundle: experts and dispatchers with all their parents in one file, for a registry that reaches no network."""

from zfleet_registry.bundles.read import Bundle, open_bundle
from zfleet_registry.bundles.register import RegisteredVersion, register_bundle
from zfleet_registry.bundles.write import write_bundle

__all__ = ["Bundle", "RegisteredVersion", "open_bundle", "register_bundle", "write_bundle"]

"""A base that outlives the process that packed it, so that replicas that restart open the same base and factors.

This module and the actor's process import neither torch nor transformers: they only hold bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorAlreadyExistsError

if TYPE_CHECKING:
    from zfleet.models.bundle import BaseBundle

NAMESPACE = "zfleet"

Fields = Mapping[str, Any]


@ray.remote(num_cpus=0)
class BaseStore:
    """Owns a bundle in the object store as long as the service runs, whoever started it.

    Args:
        fields: The fields of a ``BaseBundle``.
    """

    def __init__(self, fields: Fields) -> None:
        self._text = fields["text"]
        self._fields = ray.put(fields)

    def fields(self) -> list[ray.ObjectRef[Fields]]:
        """Return a reference to the fields, in a list so that Ray does not fetch it on the way."""
        return [self._fields]

    def text(self) -> Mapping[str, bytes]:
        """Return the configuration and tokenizer files."""
        text: Mapping[str, bytes] = self._text
        return text


def publish_base(bundle: BaseBundle) -> tuple[str, bool]:
    """Keep a bundle in the cluster, in a store that exists or in a new one.

    Returns:
        The store's name, and whether it is new; the caller removes a new one.
    """
    spec = bundle.spec
    name = f"base-{bundle.name}-{bundle.fingerprint[:16]}-{spec.targets}-{spec.dtype}-{spec.device}"
    # Ray's decorator is typed as returning the plain class.
    actor: Any = BaseStore
    options = actor.options(name=name, namespace=NAMESPACE, lifetime="detached")
    try:
        store, made = options.remote(dict(vars(bundle))), True
    except ActorAlreadyExistsError:
        store, made = _store(name), False
    try:
        ray.get(store.text.remote())
    except BaseException:
        if made:
            ray.kill(store)
        raise
    return name, made


def remove_base(name: str) -> None:
    """End the store of a published base, and free the base."""
    try:
        ray.kill(_store(name))
    except ValueError:
        return  # it is gone, with its cluster for example


@dataclass(frozen=True)
class StoredBase:
    """A published base, named by its ``BaseStore``."""

    store: str

    async def fetch(self) -> BaseBundle:
        """As ``BaseSource.fetch``."""
        from zfleet.models.bundle import BaseBundle

        (reference,) = await _store(self.store).fields.remote()
        return BaseBundle(**await reference)

    async def text(self) -> Mapping[str, bytes]:
        """Fetch the configuration and tokenizer files."""
        text: Mapping[str, bytes] = await _store(self.store).text.remote()
        return text


def _store(name: str) -> Any:
    return ray.get_actor(name, namespace=NAMESPACE)

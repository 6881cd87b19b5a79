"""What the next version of an expert may be."""

from __future__ import annotations

from zfleet.errors import RegistryError
from zfleet_registry import catalog
from zfleet_registry.connect import Connection
from zfleet_registry.lineage import refuse_future_parents
from zfleet_registry.provenance import Provenance
from zfleet_registry.references import model_name
from zfleet_registry.version import from_mlflow, is_ours


def check_next(connection: Connection, slug: str, name: str, provenance: Provenance) -> None:
    """Refuse a next version of another kind, or with a parent that does not exist before it.

    Args:
        connection: The registry.
        slug: The base.
        name: The expert or the dispatcher.
        provenance: Of the version.

    Raises:
        RegistryError: Says which.
        RegistryUnreachable: The registry does not answer.
    """
    model = model_name(slug, name)
    with connection.answering(f"look for {model}"):
        newest = catalog.newest_version(connection.client, model)
    parents = [parent.reference for parent in provenance.parents]
    refuse_future_parents(slug, name, 0 if newest is None else int(newest.version), parents)
    dispatcher = provenance.kind == "dispatcher"
    if newest is not None and is_ours(newest) and from_mlflow(newest, {}).is_dispatcher != dispatcher:
        new, there = ("a dispatcher", "an expert") if dispatcher else ("an expert", "a dispatcher")
        raise RegistryError(
            f"{name!r} is {there}, and cannot have {new} as its next version", f"give {new} a name of its own"
        )

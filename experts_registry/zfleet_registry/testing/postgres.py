"""PostgreSQL for tests and benchmarks: the product's own server, in a folder that ends with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zfleet_registry.server.postgres import postgres


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server with an empty database; both end with the block.

    Yields:
        The URI of the database; its password is where clients look for it.

    Raises:
        RegistryError: PostgreSQL is not installed, or does not start.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        # The server does not run as root, and its own user must come in.
        folder.chmod(0o755)
        with postgres(folder) as (uri, _):
            yield uri.replace("+psycopg", "")

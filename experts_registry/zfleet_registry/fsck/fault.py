"""A fault: what is wrong with one thing in a registry, and how it is mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """What is wrong with a version, an alias, an entry of a log, a run or an experiment.

    Attributes:
        check: The kind of fault.
        where: The thing.
        what: What is wrong with it.
        remedy: What a person can do if it is not mended.
        mend: Mends it, and returns what was done; None if no program can. It raises ``RegistryError`` if it fails.
    """

    check: str
    where: str
    what: str
    remedy: str = "zfleet experts fsck --repair"
    mend: Callable[[], str] | None = field(default=None, compare=False, repr=False)

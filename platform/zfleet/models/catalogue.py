"""The bases that this machine knows: the lab base, those with a name, and what was converted from GGUF files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from zfleet.models.base import base_name
from zfleet.models.fingerprint import fingerprint, weight_files
from zfleet.models.gguf.folders import converted_folders, read_origin
from zfleet.models.known import KNOWN_BASES, KnownBase
from zfleet.models.lab.build import lab_folder
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.svf.stored import read_entries


@dataclass(frozen=True)
class ListedBase:
    """A base of the list.

    Attributes:
        name: What ``base.model`` says; of a converted file that has no name, the file's.
        origin: Where it comes from, in a few words.
        licence: Of the model; None if nobody says.
        folder: Where it lies; None if it is not in the cache, as all that follows.
        fingerprint: The base's.
        parameters: How many numbers it has.
        bytes: Its size on disk.
        factors: The targets whose factors are in the cache.
    """

    name: str
    origin: str
    licence: str | None = None
    folder: Path | None = None
    fingerprint: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    factors: tuple[str, ...] = ()


def list_bases() -> list[ListedBase]:
    """List the lab base, the known bases, and the converted ones, in this order.

    Raises:
        BaseModelError, FactorsError: What the cache says of a base or of factors is damaged; names the file.
    """
    named = [_known(name, known) for name, known in KNOWN_BASES.items()]
    folders = {one.folder for one in named}
    converted = [_converted(folder) for folder in converted_folders() if folder not in folders]
    return [_lab(), *named, *sorted(converted, key=lambda one: one.name)]


def _lab() -> ListedBase:
    folder = lab_folder()
    if not folder.is_dir():
        return ListedBase("lab", "built here")
    parameters = sum(math.prod(one.shape) for file in weight_files(folder) for one in read_entries(file).values())
    return _listed("lab", "built here", None, folder, fingerprint(folder), parameters)


def _known(name: str, known: KnownBase) -> ListedBase:
    origin = f"{known.package} {known.version}"
    if not known.folder.is_dir():
        return ListedBase(name, origin, known.licence)
    record = read_origin(known.folder)
    origin = f"{origin}, {next(iter(record.types))}"
    return _listed(name, origin, known.licence, known.folder, record.fingerprint, record.parameters)


def _converted(folder: Path) -> ListedBase:
    record = read_origin(folder)
    origin = f"GGUF, {next(iter(record.types))}"
    return _listed(base_name(record.file), origin, record.licence, folder, record.fingerprint, record.parameters)


def _listed(name: str, origin: str, licence: str | None, folder: Path, base: str, parameters: int) -> ListedBase:
    size = sum(file.stat().st_size for file in folder.iterdir())
    factors = tuple(FactorCache(cache_root() / "factors").targets_of(base))
    return ListedBase(name, origin, licence, folder, base, parameters, size, factors)

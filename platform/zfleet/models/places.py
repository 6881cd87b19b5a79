"""Finding a base on a node by its reference, and having its files brought there if it has none."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from zfleet.errors import BaseModelError, FactorsError
from zfleet.locks import alone
from zfleet.models.base import hub_folder
from zfleet.models.bundle import BaseBundle
from zfleet.models.fingerprint import fingerprint, weight_files
from zfleet.models.reference import BaseReference, FolderReference, StoredFile
from zfleet.paths import cache_root
from zfleet.remembered import file_sha256, remember
from zfleet.svf.cache import FactorCache
from zfleet.svf.folder import FactorFolder

log = logging.getLogger(__name__)

Bring = Callable[[FolderReference, Sequence[StoredFile], Path], None]
"""Brings files from the node that a base comes from into a folder of this node, each whole or not at all.

Called with the folder there, the files that this node lacks, and the folder here.
"""

_Differs = Callable[[Path], str | None]
"""Says how a folder differs from what is wanted; None if it does not."""

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_GIB = 2**30


def find_here(reference: BaseReference, bring: Bring | None) -> BaseBundle:
    """Find a base and its factors on this node.

    A base is taken from where it lies on the node that it comes from, if this node has the same one there; then from
    this node's cache, then from the hub, and else it is brought into the cache. Factors likewise, without a hub.

    Args:
        reference: The base.
        bring: See ``Bring``; None on the node that the base comes from.

    Raises:
        BaseModelError: It is nowhere to be had, or does not arrive; names what was found instead.
        FactorsError: As ``BaseModelError``, of the factors.
    """
    model = _find_model(reference, reference.model, bring)
    factors = _find_factors(reference, bring)
    return BaseBundle(
        reference.name,
        reference.fingerprint,
        reference.spec,
        reference.context,
        reference.factors_digest,
        model,
        factors,
    )


def find_texts(reference: BaseReference, bring: Bring | None) -> Path:
    """Find a folder that has a base's configuration and tokenizer, as ``find_here`` does; it may lack the weights."""
    texts = tuple(file for file in reference.model.files if not _is_weight(file))
    model = reference.model
    return _find_model(reference, FolderReference(f"tokenizer of {model.what}", model.path, texts), bring)


def _find_model(reference: BaseReference, wanted: FolderReference, bring: Bring | None) -> Path:
    def differs(folder: Path) -> str | None:
        return _other_base(folder, reference, wanted)

    # Texts alone arrive in the same folder as texts with weights.
    into = _arrived(f"base-{reference.fingerprint[:24]}-{reference.model.digest[:16]}")
    found = _find(wanted, differs, Path(wanted.path), into, lambda: _on_hub(reference, differs), bring)
    if found == into and wanted is reference.model:
        # Each file has the sha256 that it has where the fingerprint was computed.
        remember("fingerprint", [into / _CONFIG, *weight_files(into)], reference.fingerprint)
    return found


def _find_factors(reference: BaseReference, bring: Bring | None) -> Path:
    def differs(folder: Path) -> str | None:
        return _other_factors(folder, reference)

    own = FactorCache(cache_root() / "factors").folder(reference.fingerprint, reference.spec.targets)
    if own.is_dir() and differs(own) is None:
        return own
    into = _arrived(f"factors-{reference.factors_digest[:40]}")
    return _find(reference.factors, differs, Path(reference.factors.path), into, lambda: (None, None), bring)


def _find(
    wanted: FolderReference,
    differs: _Differs,
    same: Path,
    into: Path,
    elsewhere: Callable[[], tuple[Path | None, str | None]],
    bring: Bring | None,
) -> Path:
    problems: list[str] = []
    if same.is_dir():
        problem = differs(same)
        if problem is None:
            return same
        problems.append(problem)
    found = _cached(wanted, into)
    if found is None:
        into.parent.mkdir(parents=True, exist_ok=True)
        lock = into.with_name(f"{into.name}.lock")
        with alone(lock, f"fetches {wanted.what} to {into}", lambda: _so_far(wanted, into)):
            found = _cached(wanted, into)
            if found is None:
                found, problem = elsewhere()
                problems += [problem] if problem else []
            if found is None:
                found = _brought(wanted, into, bring, problems)
    for problem in problems:
        log.warning("%s: taking %s from %s", problem, wanted.what, found)
    return found


def _brought(wanted: FolderReference, into: Path, bring: Bring | None, problems: Sequence[str]) -> Path:
    if bring is None:
        raise BaseModelError(
            f"{wanted.what} is not in {wanted.path} on {socket.gethostname()} any more"
            + "".join(f"; {problem}" for problem in problems),
            "put the files back as they were, or start the job again",
        )
    into.mkdir(exist_ok=True)
    try:
        bring(wanted, _missing(wanted, into), into)
    except BaseModelError as error:
        raise BaseModelError("; ".join([*problems, error.message]), error.remedy) from error
    return into


def _cached(wanted: FolderReference, into: Path) -> Path | None:
    return into if into.is_dir() and not _missing(wanted, into) else None


def _missing(wanted: FolderReference, folder: Path) -> list[StoredFile]:
    return [file for file in wanted.files if not _has(folder, file)]


def _has(folder: Path, file: StoredFile) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size and file_sha256(path) == file.sha256


def _other_base(folder: Path, reference: BaseReference, wanted: FolderReference) -> str | None:
    here = f"{folder} on {socket.gethostname()}"
    try:
        if any(map(_is_weight, wanted.files)) and (found := fingerprint(folder)) != reference.fingerprint:
            return f"{here} holds base {found[:12]}, the job's is {reference.fingerprint[:12]}"
    except (BaseModelError, OSError) as error:
        return f"{here} holds no base that can be read: {error}"
    for file in wanted.files:
        # Of the configuration, the fingerprint covers what matters; how weights are cut into files does not.
        if not _is_weight(file) and file.name not in (_CONFIG, _INDEX) and not _has(folder, file):
            return f"{file.name} in {here} is not the job's"
    return None


def _other_factors(folder: Path, reference: BaseReference) -> str | None:
    here = f"{folder} on {socket.gethostname()}"
    try:
        factors = FactorFolder(folder, reference.fingerprint, reference.spec.targets)
        if factors.digest != reference.factors_digest:
            return f"{here} holds factors {factors.digest[:12]}, the job's are {reference.factors_digest[:12]}"
        factors.check()
    except FactorsError as error:
        return f"{here}: {error.message}"
    # Files that the factors are computed with are made beside them.
    return None if os.access(folder, os.W_OK) else f"{here} cannot be written to"


def _on_hub(reference: BaseReference, differs: _Differs) -> tuple[Path | None, str | None]:
    """Fetch the very commit from the hub, or find it in the hub's own cache."""
    if reference.revision is None:
        return None, None
    problem = None
    for local in (True, False):
        try:
            folder = hub_folder(reference.spec.model, reference.revision, local)
        except BaseModelError as error:
            problem = error.message
            continue
        problem = differs(folder)
        if problem is None:
            return folder, None
    return None, problem


def _arrived(name: str) -> Path:
    return cache_root() / "fetched" / name


def _is_weight(file: StoredFile) -> bool:
    return file.name.endswith(".safetensors")


def _so_far(wanted: FolderReference, into: Path) -> str:
    sizes = dict(_sizes(into))
    here = sum(max(sizes.get(file.name, 0), sizes.get(file.partial, 0)) for file in wanted.files)
    return f"{here / _GIB:.2f} of {wanted.size / _GIB:.2f} GiB are here"


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name, entry.stat().st_size

"""References to experts: ``math``, ``math/3``, ``math@champion``, or qualified by a base, ``lab-1a2b3c4d.math/3``.

A registered model is called ``{base slug}.{expert}``. Both halves may hold dots, so the border is the
fingerprint's eight digits that end a slug; an expert's name may not contain such a border.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zfleet.config.names import ALIAS, LONGEST, NAME, REFERENCE, expert_name
from zfleet.errors import ExpertNotFound, RegistryError

_SLUG = r"[A-Za-z0-9][A-Za-z0-9_.-]*-[0-9a-f]{8}"
_QUALIFIED = re.compile(rf"({_SLUG})\.({NAME})")
_RESERVED_ALIAS = re.compile(r"latest|v?[0-9]+", re.IGNORECASE)
_LONGEST = 200
_DIGITS = 9
"""Of a version: more are no integer of a database."""
_FORMS = "write math, math/3 or math@champion, if need be qualified by a base: lab-1a2b3c4d.math/3"


@dataclass(frozen=True)
class Reference:
    """A reference, taken apart.

    Attributes:
        base_slug: Whose expert it is; None where the reference does not say.
        name: The expert.
        version: The version asked for, or None.
        alias: The alias asked for, or None. With neither: the champion, else the newest version.
    """

    base_slug: str | None
    name: str
    version: int | None
    alias: str | None


def parse(reference: str) -> Reference:
    """Take a reference apart.

    Raises:
        RegistryError: It is none; paths and URLs never are.
        ExpertNotFound: Its name is longer, or its version higher, than any that a registry can hold.
    """
    match = REFERENCE.fullmatch(reference)
    shown = reference[: 2 * _LONGEST]
    if match is None:
        raise RegistryError(f"{shown!r} is no reference to an expert", _FORMS)
    full, version, alias = match.groups()
    qualified = _QUALIFIED.fullmatch(full)
    slug, name = qualified.groups() if qualified else (None, full)
    # What the checks below refuse, no registry holds: it need not be asked.
    if len(name) > LONGEST or max(len(slug or ""), len(alias or "")) > _LONGEST or len(version or "") > _DIGITS:
        raise ExpertNotFound(f"{shown!r} is no reference to an expert that can exist", _FORMS)
    return Reference(slug, name, int(version) if version else None, alias)


def model_name(base_slug: str, name: str) -> str:
    """What MLflow calls the expert: ``lab-1a2b3c4d.math``."""
    return f"{base_slug}.{name}"


def split_slug(base_slug: str) -> tuple[str, str]:
    """Split a base's slug into its name and the first digits of its fingerprint: ``lab`` and ``1a2b3c4d``."""
    name, _, digits = base_slug.rpartition("-")
    return name, digits


def check_name(name: str) -> None:
    """Refuse a name that an expert cannot have.

    Raises:
        RegistryError: ``expert_name`` says why; specs refuse the same names.
    """
    try:
        expert_name(name)
    except ValueError as error:
        raise RegistryError(f"expert name {name[: 2 * _LONGEST]!r} cannot be used", str(error)) from None


def check_slug(slug: str) -> None:
    """Refuse a base slug that references could not name.

    Raises:
        RegistryError: It is not ``name-`` and the first eight digits of the fingerprint.
    """
    if not re.fullmatch(_SLUG, slug) or len(slug) > _LONGEST:
        raise RegistryError(
            f"base {slug[: 2 * _LONGEST]!r} cannot be part of an expert's name",
            "a base is its name (letters, digits, '_', '.', '-'), a '-' and the fingerprint's first 8 digits",
        )


def is_reserved(alias: str) -> bool:
    """Return whether MLflow reserves an alias for a meaning of its own."""
    return _RESERVED_ALIAS.fullmatch(alias) is not None


def check_alias(alias: str) -> None:
    """Refuse an alias that cannot be set.

    Raises:
        RegistryError: It holds other characters, is too long or is one that MLflow reserves.
    """
    if not re.fullmatch(ALIAS, alias) or len(alias) > _LONGEST:
        raise RegistryError(
            f"alias {alias[: 2 * _LONGEST]!r} cannot be used", "use letters, digits, '_' and '-', such as champion"
        )
    if is_reserved(alias):
        raise RegistryError(f"alias {alias!r} is reserved", "refer to versions by number: math/3")

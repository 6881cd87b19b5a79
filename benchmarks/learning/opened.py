"""The benchmark's base, its factors, and a learner's experts over them."""

from __future__ import annotations

from dataclasses import dataclass

from hetero.base import SHAPES, base_spec, build_base, find_shape
from zfleet.config.specs import BaseSpec
from zfleet.models.base import Base, load_base
from zfleet.models.bundle import locate_base
from zfleet.models.matrices import target_matrices
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors


@dataclass(frozen=True)
class Opened:
    """A base with plain linears, and the factors of all its targets."""

    base: Base
    factors: Factors


def open_base(name: str) -> Opened:
    """A shape of ``SHAPES`` (``eighth``: 25 million parameters), ``lab``, a folder or a hub id; each call loads a copy.

    Raises:
        BaseModelError: It cannot be found or loaded.
    """
    spec = spec_of(name)
    found, folder = locate_base(spec)
    base = load_base(folder, name=found)
    return Opened(
        base, FactorCache(cache_root() / "factors").get(target_matrices(folder, base.fingerprint, spec.targets))
    )


def spec_of(name: str) -> BaseSpec:
    """Name such a base as a job does; a shape is built if it is not cached."""
    if name not in SHAPES:
        return BaseSpec(model=name)
    shape = find_shape(name)
    return base_spec(shape, build_base(shape), "all")

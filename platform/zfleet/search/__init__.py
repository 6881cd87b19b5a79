"""The cross-entropy method over mixing coefficients, and as a sampler for Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfleet.search.cem_sampler import CemSampler

__all__ = ["CemSampler"]


def __getattr__(name: str) -> object:
    if name == "CemSampler":
        # Imported late: Optuna takes a second.
        from zfleet.search.cem_sampler import CemSampler

        return CemSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

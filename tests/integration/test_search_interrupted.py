"""A search that is interrupted from outside, as a person would.

A command of its own: only a signal to a whole process group shows what a person sees and what is left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zfleet.config.search import SearchSpec
from zfleet.models.bundle import BaseBundle
from zfleet.svf.zvector import ZVector
from zfleet_jobs.search.run import run_search
from zfleet_jobs.testing.searches import calls, held_spec, undisturbed
from zfleet_registry.registry import ExpertRegistry


@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_ends_cleanly_and_the_same_search_goes_on(
    packed: BaseBundle,
    two_experts: dict[str, ZVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[SearchSpec, Path], str],
) -> None:
    spec = held_spec(two_experts, packed, tmp_path)
    seen = interrupt(spec, tmp_path / "reached")
    assert seen.splitlines()[-1] == "interrupted; the same command continues from there"
    assert "Traceback" not in seen
    assert not [version for version in ExpertRegistry(spec.registry).list() if version.name == spec.name]
    before = calls(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    resumed = run_search(spec)
    assert calls(tmp_path) - before < resumed.evaluations, "the second run did not go on from what was done"
    assert (resumed.z_digest, resumed.history) == undisturbed(spec, packed, two_experts)

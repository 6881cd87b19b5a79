"""Training that is interrupted from outside, as a person would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zfleet.config.specs import TrainSpec
from zfleet_jobs.testing.training import CALLS_FROM_STEP_5, IN_STEP_5, contains, python, training_place
from zfleet_jobs.train.run import run_train

GRADERS = f"""
def held(completion, sample):
    if _at("held", {IN_STEP_5}):
        time.sleep(300)
    return _grade(completion)
"""


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(
    tiny_folder: Path,
    tmp_path: Path,
    interrupt: Callable[[TrainSpec, Path], tuple[str, Callable[[], dict[str, Any]]]],
    ray_cluster: None,
) -> None:
    with training_place(tmp_path, tiny_folder, GRADERS) as place:
        seen, again = interrupt(place.spec({"held": python("held")}), place.root / "held.reached")
        assert "interrupted" in seen
        assert "Traceback" not in seen
        assert not place.registry.list()
        z_digest = again()["z_digest"]
        first, second = place.calls("held").values()
        assert (first, second) == (IN_STEP_5, CALLS_FROM_STEP_5), "more than the step under way was repeated"
        (untroubled,) = run_train(place.spec({"untroubled": contains("a")}))
        assert z_digest == untroubled.z_digest

"""Training that is interrupted from outside, as a person would.

A command of its own: only a signal to a whole process group shows what a person sees and what is left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zfleet.config.specs import TrainSpec
from zfleet_jobs.testing.training import CALLS_FROM_STEP_5, IN_STEP_5, python, training_place
from zfleet_jobs.train.run import run_train

GRADERS = f"""
def held(completion, sample):
    if _at("held", {IN_STEP_5}):
        time.sleep(300)
    return _grade(completion)
"""


def test_ctrl_c_ends_cleanly_and_the_same_job_goes_on(
    tiny_folder: Path, tmp_path: Path, interrupt: Callable[[TrainSpec, Path], str], ray_cluster: None
) -> None:
    with training_place(tmp_path, tiny_folder, GRADERS) as place:
        spec = place.spec({"held": python("held")})
        seen = interrupt(spec, place.root / "held.reached")
        assert "interrupted" in seen
        assert "Traceback" not in seen
        assert not place.registry.list()
        (expert,) = run_train(spec)
        first, second = place.calls("held").values()
        assert (first, second) == (IN_STEP_5, CALLS_FROM_STEP_5), "more than the step under way was repeated"
        assert expert.z_digest == place.undisturbed()

"""Grading one answer, with the choice to leave out samples whose reward function fails."""

from __future__ import annotations

import logging

from zfleet.errors import RewardError
from zfleet.tasks.task import Sample, Task

log = logging.getLogger(__name__)


def grade(task: Task, sample: Sample, text: str, skip_failed: bool = False) -> float | None:
    """The reward of an answer; None for a sample that is left out.

    Args:
        skip_failed: Leave a sample out, with a warning, when its reward function fails.

    Raises:
        RewardError: The function failed; names the sample.
    """
    try:
        return task.reward(text, sample)
    except RewardError as error:
        if not skip_failed:
            raise
        log.warning("sample left out: %s", error)
        return None

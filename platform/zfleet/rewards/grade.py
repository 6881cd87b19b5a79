"""Grading answers: many at once where a grader mostly waits, and with the choice to leave out what cannot be graded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from zfleet.errors import CannotTell, NotThisTask, RewardError
from zfleet.rewards.needs import graded_at_once
from zfleet.tasks.task import Grade, Reward, Sample, Ungraded

log = logging.getLogger(__name__)


def grade_all(
    reward: Reward, answers: Sequence[tuple[Sample, str]], skip_failed: bool = False
) -> list[Grade | Ungraded]:
    """The grade of each answer, in their order; one of another task has none, nor one that nobody can judge.

    Args:
        skip_failed: Leave an answer out, with a warning, when its reward function fails.

    Raises:
        RewardError: A function failed; names the sample.
    """

    def graded(answer: tuple[Sample, str]) -> Grade | Ungraded:
        sample, text = answer
        try:
            return reward(text, sample)
        except NotThisTask as error:
            return Ungraded(error.message)
        except CannotTell as error:
            log.warning("answer left out: %s", error)
            return Ungraded(error.message, undecided=True)
        except RewardError as error:
            if not skip_failed:
                raise
            log.warning("sample left out: %s", error)
            return Ungraded(error.message)

    at_once = graded_at_once(reward)
    if at_once == 1:
        return [graded(answer) for answer in answers]
    with ThreadPoolExecutor(at_once, "zfleet-grade") as threads:
        return list(threads.map(graded, answers))

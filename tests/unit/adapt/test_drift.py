"""The alarm tells drift soon, and is quiet on usual traffic."""

from __future__ import annotations

import numpy as np
import pytest

from zfleet.adapt import drift
from zfleet.adapt.calibrate import DRIFT_CERTAINTY, conformal_limit
from zfleet.adapt.drift import DriftAlarm
from zfleet.adapt.risk import upper_bound

SEEDS = 60


class Traffic:
    """Novelty as distances to the nearest examples are: skewed, positive, and not apart.

    Of usual prompts it is lognormal around 1. Unseen prompts are lognormal around ``apart``: at 1.9, a fifth of them
    look like usual ones, and an AUC of .97 separates the two.
    """

    def __init__(self, seed: int, prompts: int, apart: float = 1.9) -> None:
        self._rng = np.random.default_rng(seed)
        self._apart = apart
        known = self.usual(prompts)
        self.limit = conformal_limit(known.tolist())
        self.alarm = DriftAlarm(upper_bound(int((known > self.limit).sum()), prompts, DRIFT_CERTAINTY))

    def usual(self, count: int) -> np.ndarray:
        return self._rng.lognormal(0.0, 0.25, count)

    def mixed(self, count: int, share: float) -> np.ndarray:
        unseen = self._rng.lognormal(np.log(self._apart), 0.25, count)
        return np.where(self._rng.random(count) < share, unseen, self.usual(count))

    def watch(self, novelties: np.ndarray) -> int | None:
        """Return the place of the request that raises the alarm."""
        return next((place for place, one in enumerate(novelties, 1) if self.alarm.observe(one > self.limit)), None)


@pytest.mark.parametrize("prompts", [500, 1000])
def test_five_thousand_usual_requests_raise_no_alarm(prompts: int) -> None:
    alarms = [traffic.watch(traffic.usual(5000)) for seed in range(SEEDS) if (traffic := Traffic(seed, prompts))]
    assert alarms == [None] * SEEDS


@pytest.mark.parametrize("prompts", [500, 1000])
@pytest.mark.parametrize("before", [0, 5000])
def test_a_fifth_of_unseen_prompts_is_told_within_five_hundred(prompts: int, before: int) -> None:
    """Also after a long time of usual traffic."""
    for seed in range(SEEDS):
        traffic = Traffic(1000 + seed, prompts)
        assert traffic.watch(traffic.usual(before)) is None
        told = traffic.watch(traffic.mixed(500, 0.2))
        assert told is not None, f"seed {seed}"
        assert traffic.alarm.raised == before + told


def test_traffic_that_is_all_strange_is_told_within_a_few_requests() -> None:
    alarm = DriftAlarm(0.03)
    while not alarm.observe(True):
        pass
    assert alarm.raised is not None
    assert alarm.raised < 12


def test_false_alarms_are_as_rare_as_promised_where_traffic_is_as_bad_as_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P(alarm within n) <= n / h, with requests that are strange exactly as often as ``usual`` allows."""
    monkeypatch.setattr(drift, "REQUESTS_PER_FALSE_ALARM", 1000)
    rng = np.random.default_rng(0)
    streams, n = 600, 200
    raised = 0
    for _ in range(streams):
        alarm = DriftAlarm(0.05)
        raised += any(alarm.observe(bool(strange)) for strange in rng.random(n) < 0.05)
    assert raised / streams <= n / 1000
    assert raised > 0, "with so low a bar some alarms are false: otherwise this shows nothing"


def test_it_counts_and_is_raised_once() -> None:
    alarm = DriftAlarm(0.02)
    raised = [alarm.observe(place % 2 == 0) for place in range(200)]
    assert sum(raised) == 1
    assert (alarm.requests, alarm.strange) == (200, 100)
    assert alarm.raised == raised.index(True) + 1
    assert not DriftAlarm(0.98).observe(True)

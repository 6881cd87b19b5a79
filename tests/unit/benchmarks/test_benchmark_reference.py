"""The reference implementation's way has the learner's gradient, in one pass and in several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learning import step
from learning.opened import Opened
from learning.step import TOLERANCE, WAYS, Size, gradient_of, recorded
from zfleet.models.base import load_base
from zfleet.svf.factors import Factors


def test_both_ways_have_one_gradient_in_any_number_of_passes(
    tiny_folder: Path, tiny_factors: Factors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "open_base", lambda name: Opened(load_base(Path(name)), tiny_factors))
    rollouts = recorded(Size(samples=5, tokens=8))
    found = []
    # Of 24 tokens each: all five at once, two by two, and one by one.
    for micro_batch_tokens in (8192, 50, 1):
        for way in WAYS:
            with gradient_of(way, str(tiny_folder), micro_batch_tokens) as gradient:
                # Twice: nothing of a step is left for the next.
                found += [gradient(rollouts), gradient(rollouts)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=TOLERANCE * float(found[0].abs().max()), rtol=TOLERANCE)

"""The hidden states that a worker of vLLM sums up, piece by piece."""

from __future__ import annotations

import torch

from zfleet.engine.vllm_engine.hidden_states import HiddenSums, Piece

HIDDEN = torch.arange(24.0).view(8, 3)


def test_pieces_add_up_to_the_mean_of_their_prompt() -> None:
    sums = HiddenSums()
    for first, tokens in ((0, 3), (3, 1), (4, 3)):
        # Another request before it, and padding behind.
        sums.begin([Piece(None, 0, 9, 1), Piece("a", first, 6 - first, tokens)])
        assert sums.wanted
        sums.add(torch.cat([HIDDEN[7:], HIDDEN[first : first + tokens], HIDDEN[:2]]))
    torch.testing.assert_close(sums.take("a", ()), HIDDEN[:6].mean(0), msg="the sampled token is none of the prompt's")
    assert sums.take("a", ()) is None, "it was taken"


def test_a_prompt_that_begins_again_is_counted_once() -> None:
    sums = HiddenSums()
    for first, tokens in ((0, 2), (2, 2), (0, 5), (5, 1)):
        sums.begin([Piece("a", first, 6 - first, tokens)])
        sums.add(HIDDEN[first:])
    torch.testing.assert_close(sums.take("a", ()), HIDDEN[:6].mean(0))


def test_a_prompt_with_a_gap_has_no_mean() -> None:
    sums = HiddenSums()
    for first, tokens in ((0, 2), (3, 3)):
        sums.begin([Piece("a", first, 6 - first, tokens)])
        sums.add(HIDDEN[first:])
    assert sums.take("a", ()) is None


def test_what_nobody_waits_for_is_forgotten() -> None:
    sums = HiddenSums()
    sums.begin([Piece("gone", 0, 4, 2), Piece("a", 0, 2, 2)])
    sums.add(HIDDEN)
    torch.testing.assert_close(sums.take("a", ["gone", "unknown"]), HIDDEN[2:4].mean(0))
    assert not sums._sums
    # A piece of it that was under way.
    sums.begin([Piece("gone", 2, 2, 2)])
    sums.add(HIDDEN)
    assert not sums._sums


def test_steps_without_such_requests_want_nothing() -> None:
    sums = HiddenSums()
    sums.begin([Piece(None, 0, 5, 5), Piece("a", 4, 0, 1)])
    assert not sums.wanted

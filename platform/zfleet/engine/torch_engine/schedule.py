"""What each step computes: which waiting answers begin, whose prompts they share, and how much of long prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zfleet.engine.admission import Admission
from zfleet.engine.torch_engine.prompt import PromptPass
from zfleet.engine.torch_engine.sequence import SequenceState
from zfleet.engine.torch_engine.single_pass import SinglePass

Work = SequenceState | SinglePass[Any]

PASS_TOKENS = 4096
"""The most tokens in one pass over prompts, or of work of a single pass, padding included."""

_LEAST_PIECE = 64
"""A piece of a prompt with fewer tokens would cost as much: the weights are read for each pass."""


@dataclass(frozen=True)
class Step:
    """What one step computes.

    Attributes:
        running: Answers that get one more token each, in the order of their slots.
        copies: The slots in which the prompts of the last answers of ``running`` lie. These are new, one for each copy.
        prompts: Prompts that are computed in one pass together. Their answers follow in the next slots.
        pieces: (prompt, tokens) of longer ones, each in a pass of its own. Answers of a prompt that is complete then
            follow in the next slots.
        single: Work of a single pass.
    """

    running: Sequence[SequenceState]
    copies: Sequence[int]
    prompts: Sequence[PromptPass]
    pieces: Sequence[tuple[PromptPass, int]]
    single: Sequence[SinglePass[Any]]

    def __bool__(self) -> bool:
        return bool(self.running or self.prompts or self.pieces or self.single)


class Schedule:
    """The answers under way, and what the next step computes.

    Attributes:
        running: Answers that have a slot of the cache, in the order of their slots.
        prompts: Prompts that are being computed; their answers count as running for admission.
        single: Work of a single pass, which the step under way does; the engine takes it out when it is done.
    """

    def __init__(self, admission: Admission[Work], piece: int) -> None:
        """Start with nothing under way.

        Args:
            admission: The queue that work comes from.
            piece: The most tokens of prompts in a step beside answers under way. A longer prompt takes several steps.
        """
        self.running: list[SequenceState] = []
        self.prompts: list[PromptPass] = []
        self.single: list[SinglePass[Any]] = []
        self._admission = admission
        self._piece = min(piece, PASS_TOKENS)

    @property
    def answers(self) -> list[SequenceState]:
        """All answers under way, those whose prompts are not complete included."""
        return [*self.running, *(answer for prompt in self.prompts for answer in prompt.answers)]

    @property
    def work(self) -> list[Work]:
        """All work under way."""
        return [*self.answers, *self.single]

    def plan(self) -> Step:
        """Admit waiting work, and choose what the next step computes."""
        # Answers under way do not wait for many prompts at once, and short prompts do not wait for a long one.
        tokens = self._piece // 2 if self.prompts else self._piece if self.running else PASS_TOKENS
        budget = PassBudget(tokens)
        copies = self._admit(budget) if self._admission.waiting else []
        whole = [prompt for prompt in self.prompts if not self._is_long(prompt)]
        pieces = self._pieces(max(self._piece - budget.tokens, self._piece // 2))
        return Step(list(self.running), copies, whole, list(pieces), list(self.single))

    def finish(self, step: Step) -> None:
        """Take note of what a step computed: answers whose prompts are complete are running."""
        for prompt, tokens in ((prompt, prompt.left) for prompt in step.prompts):
            prompt.done += tokens
        for prompt, tokens in step.pieces:
            prompt.done += tokens
        computed = (*step.prompts, *(prompt for prompt, _ in step.pieces))
        self.running += [answer for prompt in computed if not prompt.left for answer in prompt.answers]
        self.prompts = [prompt for prompt in self.prompts if prompt.left]

    def drop_finished_prompts(self) -> None:
        """Drop answers that ended before their prompts were complete, and prompts that no answer waits for."""
        for prompt in self.prompts:
            prompt.answers = [answer for answer in prompt.answers if not answer.finished]
        self.prompts = [prompt for prompt in self.prompts if prompt.answers]

    def clear(self) -> None:
        """Forget all work under way."""
        self.running, self.prompts, self.single = [], [], []

    def _admit(self, budget: PassBudget) -> list[int]:
        """Admit waiting work. Returns the slots with the prompts of the answers that need no pass of their own."""
        begun = [(answer.prompt, slot) for slot, answer in enumerate(self.running)]
        slots = {prompt: slot for prompt, slot in begun if not prompt.ends_in_image}
        passes = {prompt.prompt: prompt for prompt in self.prompts}
        single = PassBudget(PASS_TOKENS)
        copies: list[int] = []

        def fits(work: Work) -> bool:
            if isinstance(work, SinglePass):
                return single.takes(work.length)
            if work.prompt in slots or work.prompt in passes:
                return True
            if work.length <= self._piece:
                return budget.takes(work.length)
            left = sum(prompt.left for prompt in self.prompts if self._is_long(prompt))
            return left + budget.tokens < self._piece

        for work in self._admission.admit(fits):
            if isinstance(work, SinglePass):
                self.single.append(work)
            elif (slot := slots.get(work.prompt)) is not None:
                copies.append(slot)
                self.running.append(work)
            elif (shared := passes.get(work.prompt)) is not None:
                shared.answers.append(work)
            else:
                passes[work.prompt] = PromptPass([work])
                self.prompts.append(passes[work.prompt])
        return copies

    def _pieces(self, tokens: int) -> Iterator[tuple[PromptPass, int]]:
        """Cut so many tokens from long prompts, first come first served."""
        for number, prompt in enumerate(filter(self._is_long, self.prompts)):
            piece = min(prompt.left, tokens)
            if number and piece < min(prompt.left, _LEAST_PIECE):
                return
            yield prompt, piece
            tokens -= piece

    def _is_long(self, prompt: PromptPass) -> bool:
        return len(prompt.prompt) > self._piece


class PassBudget:
    """Bounds a pass in which every row is padded to the longest.

    Attributes:
        tokens: In the pass, padding included.
    """

    def __init__(self, most: int) -> None:
        self.tokens = 0
        self._most = most
        self._longest = self._rows = 0

    def takes(self, length: int) -> bool:
        """Count one more row of this length in if it fits; a first row always does."""
        longest = max(self._longest, length)
        tokens = longest * (self._rows + 1)
        fits = not self._rows or tokens <= self._most
        if fits:
            self._longest, self._rows, self.tokens = longest, self._rows + 1, tokens
        return fits

"""The dispatcher contract as tests: every dispatcher inherits ``DispatcherConformance`` and passes all of it."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from zfleet.adapt.contract import Decision, Dispatcher, Mixture
from zfleet.engine.contract import BASE_Z, Engine
from zfleet.errors import EngineError, RequestTooLong
from zfleet.testing.engine_harness import greedy, run
from zfleet.testing.fake_engine import fake_tokens, fake_z
from zfleet.testing.words_engine import WordsEngine

KINDS_OF_WORDS: Mapping[str, Sequence[str]] = {
    "add": ("one", "two", "three", "four", "five", "six"),
    "sort": ("pear", "fig", "kiwi", "plum", "lime", "date"),
    "flip": ("red", "blue", "pink", "teal", "gold", "grey"),
}
"""{label: the words of its prompts}."""

CLASSIFIER = fake_z(1)
"""The expert that answers the question of the first pass with the label."""


def prompts_of(label: str) -> list[str]:
    """Return thirty prompts of one label, all different."""
    words = KINDS_OF_WORDS[label]
    return [f"{label} {first} {second}" for first in words for second in words if first != second]


STRANGE = ("weather in oslo", "who wrote hamlet", "paint it black")
"""Prompts of no label."""


def answers(prompt: str, z_digest: str) -> str | None:
    """Answer the question of the first pass with the prompt's first word: the script of the suite's engine."""
    if not prompt.startswith("kind? "):
        return None
    return prompt.removeprefix("kind? ").split()[0]


class DispatcherConformance(ABC):
    """Give ``make_dispatcher``; override the others where a dispatcher does not tell prompts apart.

    Attributes:
        kind: Of the dispatcher.
        known: {prompt: its label}.
        strange: Prompts that are left to the base.
        asks_engine: Whether the engine computes anything.
    """

    kind: str
    known: Mapping[str, str] = {prompt: label for label in KINDS_OF_WORDS for prompt in prompts_of(label)[:4]}
    strange: Sequence[str] = STRANGE
    asks_engine = True

    @abstractmethod
    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        """Make a dispatcher whose labels are those of ``known``; the engine knows ``CLASSIFIER``."""

    def mixture_of(self, label: str) -> Mixture:
        """Return the mixture of a label."""
        return {f"{label}-expert": 1.0}

    async def test_it_is_of_its_kind(self) -> None:
        async with self.stage() as (engine, dispatcher):
            assert dispatcher.kind == self.kind
            assert {(await dispatcher.decide(engine, prompt)).method for prompt in self._every()} == {self.kind}

    async def test_every_decision_is_sound(self) -> None:
        async with self.stage() as (engine, dispatcher):
            for prompt in self._every():
                self._check(await dispatcher.decide(engine, prompt))

    async def test_known_prompts_go_where_their_label_says(self) -> None:
        async with self.stage() as (engine, dispatcher):
            for prompt, label in self.known.items():
                decision = await dispatcher.decide(engine, prompt)
                assert (decision.label, dict(decision.mixture)) == (label, dict(self.mixture_of(label)))
                assert label in decision.reason

    async def test_strange_prompts_go_to_the_base(self) -> None:
        async with self.stage() as (engine, dispatcher):
            for prompt in self.strange:
                decision = await dispatcher.decide(engine, prompt)
                assert (decision.label, dict(decision.mixture), decision.confidence) == (None, {}, 0.0)
                assert decision.reason.endswith("base")

    async def test_a_decision_does_not_depend_on_other_prompts(self) -> None:
        async with self.stage() as (engine, dispatcher):
            prompts = self._every()
            alone = [await dispatcher.decide(engine, prompt) for prompt in prompts]
            crowd = await asyncio.gather(*(dispatcher.decide(engine, prompt) for prompt in reversed(prompts * 3)))
        assert crowd == list(reversed(alone * 3))

    async def test_nothing_is_generated_and_answers_under_way_are_left_alone(self) -> None:
        async with self.stage() as (engine, dispatcher):
            expected = await run(engine, greedy(fake_tokens("a prompt")))
            before = (await engine.stats()).generated_tokens
            for prompt in self._every():
                await dispatcher.decide(engine, prompt)
            assert (await engine.stats()).generated_tokens == before
            answer, *_ = await asyncio.gather(
                run(engine, greedy(fake_tokens("a prompt"))),
                *(dispatcher.decide(engine, prompt) for prompt in self._every()),
            )
            assert answer == expected

    async def test_braces_and_line_breaks_are_text(self) -> None:
        async with self.stage() as (engine, dispatcher):
            for prompt in ("{0} {y} {prompt} {", "a\nb\n", "%s {{}}"):
                self._check(await dispatcher.decide(engine, prompt))

    async def test_a_prompt_that_is_too_long_fails_alone(self) -> None:
        if not self.asks_engine:
            pytest.skip("it asks no engine")
        async with self.stage() as (engine, dispatcher):
            prompt = next(iter(self.known))
            bad, good = await asyncio.gather(
                dispatcher.decide(engine, "add " * 10_000), dispatcher.decide(engine, prompt), return_exceptions=True
            )
        assert isinstance(bad, RequestTooLong)
        assert isinstance(good, Decision)
        assert good.label == self.known[prompt]

    async def test_an_engine_that_fails_is_an_error(self) -> None:
        if not self.asks_engine:
            pytest.skip("it asks no engine")
        async with self.stage() as (engine, dispatcher):
            await engine.close()
            with pytest.raises(EngineError):
                await dispatcher.decide(engine, next(iter(self.known)))

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[tuple[Engine, Dispatcher]]:
        """Make an engine that knows the classifier, and the dispatcher; close the engine at the end of the block."""
        engine = WordsEngine(answers)
        await engine.put_z(CLASSIFIER)
        try:
            yield engine, await self.make_dispatcher(engine)
        finally:
            await engine.close()

    def _every(self) -> list[str]:
        return [*self.known, *self.strange]

    def _check(self, decision: Decision) -> None:
        labels = set(self.known.values())
        assert set(decision.probabilities) == labels
        assert math.isclose(sum(decision.probabilities.values()), 1.0, rel_tol=1e-9)
        assert all(0.0 <= probability <= 1.0 for probability in decision.probabilities.values())
        assert 0.0 <= decision.confidence <= 1.0
        assert decision.reason
        assert (decision.prompt_tokens > 0) == self.asks_engine
        if decision.label is None:
            assert (dict(decision.mixture), decision.confidence) == ({}, 0.0)
        else:
            assert decision.probabilities[decision.label] == max(decision.probabilities.values())
        if decision.mixture:
            routed = {expert for label in labels for expert in self.mixture_of(label)}
            assert set(decision.mixture) <= routed
            assert BASE_Z not in decision.mixture

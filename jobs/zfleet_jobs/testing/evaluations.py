"""Evaluations on the fake engine, for tests: an expert answers prompts of its own kind, the base those of none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zfleet.config.evaluate import EvaluateSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.evaluate.cells import CellKey, Mixture
from zfleet.evaluate.splits import split
from zfleet.rewards.text import Exact
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Reward, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_jobs.evaluate.answerer import Answerer, Result, Work
from zfleet_jobs.evaluate.answers import Answers, StageProgress
from zfleet_jobs.evaluate.dispatchers import bare_dispatcher
from zfleet_jobs.evaluate.identity import EngineIdentity
from zfleet_jobs.evaluate.measure import MeasuredCell, measure
from zfleet_jobs.evaluate.prepared import Mixtures, Prepared, expert_names
from zfleet_jobs.run_folder.storage import Storage

ENGINE = EngineIdentity("fake-base", "fake-factors", "float32", "cpu", "torch", "factored")
KINDS = ("up", "down", "same")
RIGHT = {"up": "U", "down": "D", "same": "S"}


class FakeTokenizer:
    """The fake engine's: a character a token, and a chat template that changes nothing."""

    bos_token_id = None
    bos_token = None
    eos_token_id = 0
    image_token = None
    chat_template = "{{ messages[0]['content'] }}"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(fake_tokens(text))}

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], **_: object) -> str:
        return turns[-1]["content"]


def _rows(side: str, kinds: Sequence[str], count: int, passages: int = 0) -> tuple[Sample, ...]:
    samples = []
    for place in range(count):
        kind = kinds[place % len(kinds)]
        fields = {"kind": kind} | ({"passage": f"p{place % passages}"} if passages else {})
        samples.append(Sample(f"{side}-{place}", f"{kind} {side} {place}", RIGHT[kind], fields))
    return tuple(samples)


def made_up_task(name: str, kinds: Sequence[str], reward: Reward | None = None, passages: int = 0) -> Task:
    train, test = _rows(f"train {name}", kinds, 40), _rows(f"test {name}", kinds, 12, passages)
    return Task(name, train, test, PromptTemplate("{prompt}"), reward or Exact(), 4)


@dataclass
class FakeEvaluation:
    """An evaluation whose engine is in this process.

    Attributes:
        prepared: The evaluation.
        storage: Where answers are kept.
        work: All that the engine was given to do.
        progress: All that was told.
        found: What searches found.
    """

    prepared: Prepared
    storage: Storage
    work: list[Work] = field(default_factory=list)
    progress: list[StageProgress] = field(default_factory=list)
    found: dict[CellKey, Mixture] = field(default_factory=dict)

    def run(self) -> dict[CellKey, MeasuredCell]:
        """Measure everything that is not known."""
        prepared, mixtures = self.prepared, Mixtures(self.prepared)
        engine = FakeEngine(self._script(mixtures), slots=64, z_rows=8)
        with SyncEngine(engine) as sync:
            tokenizer: Any = FakeTokenizer()
            answerer = Answerer(sync, tokenizer, prepared.tasks, frozenset(), prepared.spec.temperature)

            def pool(work: Sequence[Work]) -> Iterator[tuple[Work, Result]]:
                for one in work:
                    self.work.append(one)
                    yield one, answerer(one, {digest: mixtures.by_digest[digest] for digest in one.z_digests})

            answers = Answers(prepared, self.storage, pool, self.progress.append)
            cells = measure(prepared, self.found, mixtures, answers, self.storage)
        return {cell.key: cell for cell in cells}

    def _script(self, mixtures: Mixtures) -> Any:
        """Answer as the experts would: right where the prompt's kind is among those of the z, or the base's."""
        own = {z.digest: reference.partition("/")[0] for reference, z in self.prepared.experts.items()}

        def script(prompt: str, z_digest: str) -> str:
            question = prompt.startswith("kind? ")
            kind = next((word for word in prompt.split() if word in KINDS), "none")
            if question:
                # The base takes everything for `up`; the classifier knows.
                return "up" if z_digest == "base" else kind
            if z_digest == "base":
                return RIGHT[kind] if kind == "same" or ("please" in prompt and kind == "down") else "wrong"
            expert = own.get(z_digest)
            return RIGHT[kind] if expert in (None, kind) else "wrong"

        return script


def prepare_fake(
    storage: Path, tasks: Mapping[str, Task], experts: Mapping[str, ZVector], **values: Any
) -> FakeEvaluation:
    """Prepare an evaluation of made-up tasks and experts."""
    data = {
        "name": "fake",
        "tasks": {name: {"lab": "sort"} for name in tasks},
        "experts": tuple(experts),
        "draws": (0, 1),
        "shots": (3,),
        "selection_samples": 6,
        "engine": {"kind": "torch", "slots": 8},
        **values,
    }
    spec = EvaluateSpec.model_validate(data)
    classifier = ("kind/1", fake_z(99))
    dispatchers = {
        name: bare_dispatcher(one, experts, expert_names(experts), None if one.classifier is None else classifier)
        for name, one in spec.dispatchers.items()
    }
    prepared = Prepared(
        spec=spec,
        engine=ENGINE,
        tasks=tasks,
        splits={name: split(one, spec.selection_samples, spec.eval_samples) for name, one in tasks.items()},
        experts=experts,
        own_tasks={reference: frozenset({reference.partition("/")[0]}) for reference in experts},
        dispatchers=dispatchers,
        reached=dict([classifier]),
    )
    return FakeEvaluation(prepared, Storage.at(str(storage)))


EXPERTS = {"up/1": fake_z(1), "down/2": fake_z(2)}
TASKS = {
    "up": made_up_task("up", ("up",)),
    "down": made_up_task("down", ("down",)),
    "mixed": made_up_task("mixed", KINDS),
}
WAYS: Mapping[str, Any] = {
    "prompts": {"plain": "{prompt}", "polite": "please {prompt}"},
    "searches": {"cem": {}},
    "dispatchers": {"asks-base": {}, "asks-expert": {"classifier": "kind"}},
}

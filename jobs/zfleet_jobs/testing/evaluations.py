"""Evaluations on the fake engine, for tests: an expert answers prompts of its own kind, the base those of none."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zfleet.config.evaluate import EvaluateSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.evaluate.about import About
from zfleet.evaluate.cells import CellKey, Mixture
from zfleet.evaluate.splits import split
from zfleet.evaluate.traces import Candidate, Generation, SearchTrace
from zfleet.evaluate.ways import ways_of
from zfleet.rewards.text import Exact
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Reward, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_jobs.evaluate.answerer import Answerer, Result, Work
from zfleet_jobs.evaluate.answers import Answers, StageProgress
from zfleet_jobs.evaluate.cell_files import write_cell
from zfleet_jobs.evaluate.dispatchers import bare_dispatcher
from zfleet_jobs.evaluate.identity import EngineIdentity
from zfleet_jobs.evaluate.measure import MeasuredCell, measure
from zfleet_jobs.evaluate.prepared import Mixtures, Prepared, expert_names
from zfleet_jobs.evaluate.results import ABOUT_FILE, write_trace
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


def _made_up_trace(key: CellKey, mixture: Mixture) -> SearchTrace:
    """Make the trace of a search whose score grows with the first expert's alpha."""
    rng = random.Random(str(key))
    names, shots = list(mixture), key.shots or 1
    candidates = []
    for _ in range(40):
        drawn = {name: rng.random() for name in names}
        candidates.append(Candidate(drawn, min(1.0, 0.3 + 0.5 * drawn[names[0]] + 0.1 * rng.random()), shots))
    best = [max(one.value for one in candidates[: 10 * (step + 1)]) for step in range(4)]
    history = tuple(Generation(value, value / 2, 10 * shots * (step + 1)) for step, value in enumerate(best))
    return SearchTrace(key, best[-1], 40 * shots, 1.0, history, tuple(candidates))


def made_up_task(
    name: str, kinds: Sequence[str], reward: Reward | None = None, passages: int = 0, test_size: int = 12
) -> Task:
    """Make a task whose prompts are of some kinds in turn."""
    train, test = _rows(f"train {name}", kinds, 40), _rows(f"test {name}", kinds, test_size, passages)
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
        noise: The share of prompts that each z answers otherwise than its kind says.
    """

    prepared: Prepared
    storage: Storage
    work: list[Work] = field(default_factory=list)
    progress: list[StageProgress] = field(default_factory=list)
    found: dict[CellKey, Mixture] = field(default_factory=dict)
    noise: float = 0.0

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

    def write(self, run: Storage) -> None:
        """Measure, and write the folder of a finished run."""
        spec = self.prepared.spec
        for cell in self.run().values():
            write_cell(run, cell.key, cell.way.kind, cell.own_task, cell.rows)
        for key, mixture in self.found.items():
            write_trace(run, _made_up_trace(key, mixture))
        about = About(
            name=spec.name,
            base="fake",
            fingerprint="f" * 64,
            engine=spec.engine.kind,
            experts={reference: z.digest for reference, z in self.prepared.experts.items()},
            tasks=tuple(spec.tasks),
            ways=tuple(way.name for way in ways_of(spec, list(self.prepared.experts))),
            against=spec.against,
            shots=spec.shots,
            draws=spec.draws,
            seeds=spec.seeds,
            temperature=spec.temperature,
            cluster_by=spec.cluster_by,
            code="0",
            seconds={"answers": 1.5},
        )
        run.put(ABOUT_FILE, about.to_json())

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
                right = kind == "same" or ("please" in prompt and kind == "down")
            else:
                right = own.get(z_digest) in (None, kind)
            luck = int.from_bytes(hashlib.sha256(f"{prompt}/{z_digest}".encode()).digest()[:8], "big") / 2**64
            return RIGHT[kind] if right != (luck < self.noise) else "wrong"

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

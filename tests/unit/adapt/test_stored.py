"""A dispatcher as a file: it comes back as it was, and nothing that is damaged is used."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zfleet.adapt.calibrate import LabelledPrompt, Wanted, calibrated
from zfleet.adapt.document import DispatcherDocument
from zfleet.adapt.examples import Examples
from zfleet.adapt.nearest import hidden_states
from zfleet.adapt.stored import FORMAT, StoredDispatcher
from zfleet.errors import DispatcherError, WrongBase
from zfleet.testing.dispatcher_conformance import CLASSIFIER, KINDS_OF_WORDS, STRANGE, answers, prompts_of
from zfleet.testing.fake_engine import fake_tokens
from zfleet.testing.words_engine import WordsEngine

EXPERTS = {f"{label}-expert/1": label[0] * 64 for label in KINDS_OF_WORDS} | {"kind/2": CLASSIFIER.digest}
ROUTES = {label: {f"{label}-expert/1": 1.0} for label in KINDS_OF_WORDS}
QUESTION = "kind? {prompt}"
STEPS: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt", "question": QUESTION},
    "classifier": {"kind": "classifier", "asks": "kind/2", "question": QUESTION},
    "soft": {"kind": "soft", "asks": "kind/2", "question": QUESTION, "compares": True},
    "nearest": {"kind": "nearest", "compares": True},
    "few_shot": {"kind": "few_shot"},
}


@pytest.fixture
async def engine() -> AsyncIterator[WordsEngine]:
    engine = WordsEngine(answers)
    await engine.put_z(CLASSIFIER)
    yield engine
    await engine.close()


async def make(engine: WordsEngine, *kinds: str, **changes: Any) -> StoredDispatcher:
    """Make a calibrated dispatcher of these steps."""
    steps = [STEPS[kind] for kind in kinds]
    compares = any(step.get("compares") for step in steps)
    values = {
        "base": "b" * 64,
        "factors": "f" * 64,
        "experts": EXPERTS,
        "routes": ROUTES if set(kinds) != {"few_shot"} else {},
        "tasks": {"exam": {"add-expert/1": 0.75, "sort-expert/1": (0.5, 0.25)}} if "few_shot" in kinds else {},
        "steps": steps,
        "example_labels": tuple(KINDS_OF_WORDS) if compares else (),
    }
    states = {label: await hidden_states(engine, fake_tokens, prompts_of(label)[:15]) for label in KINDS_OF_WORDS}
    examples = Examples.from_states(states) if compares else None
    stored = StoredDispatcher(DispatcherDocument.model_validate(values | changes), examples)
    if scoring := stored.scoring(fake_tokens):
        known = [LabelledPrompt(prompt, label) for label in KINDS_OF_WORDS for prompt in prompts_of(label)[15:]]
        stored = stored.with_calibration(*await calibrated(scoring, engine, known, Wanted(risk=0.4)))
    return stored


KINDS = [("prompt",), ("classifier",), ("soft",), ("nearest",), ("few_shot",), ("few_shot", "nearest", "classifier")]


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
async def test_what_is_read_decides_as_what_was_written(engine: WordsEngine, kinds: tuple[str, ...]) -> None:
    stored = await make(engine, *kinds)
    read = StoredDispatcher.from_bytes(stored.to_bytes())
    assert read.document == stored.document
    assert read.digest == stored.digest
    dispatcher, again = stored.open(fake_tokens), read.open(fake_tokens)
    assert dispatcher.kind == again.kind == (kinds[0] if len(kinds) == 1 else "cascade")
    for prompt in [*(prompts_of(label)[0] for label in KINDS_OF_WORDS), *STRANGE]:
        assert await dispatcher.decide(engine, prompt) == await again.decide(engine, prompt)


async def test_calibration_is_stored_with_what_it_measured(engine: WordsEngine) -> None:
    stored = await make(engine, "classifier")
    facts = stored.document.facts
    assert facts is not None
    assert (facts.prompts, facts.accuracy, facts.risk_asked) == (45, 1.0, 0.4)
    (step,) = stored.document.steps
    assert step.calibration.threshold == 0.0
    assert step.calibration.limit is not None


async def test_the_file_is_safetensors_with_a_document_that_people_can_read(engine: WordsEngine) -> None:
    data = (await make(engine, "nearest")).to_bytes()
    arrays = safetensors.numpy.load(data)
    assert arrays["points"].shape == (45, 24)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert header["format"] == FORMAT
    assert json.loads(header["document"])["experts"] == EXPERTS


async def test_damage_is_named(engine: WordsEngine) -> None:
    whole = (await make(engine, "nearest")).to_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DispatcherError, match="router/3 is no complete safetensors file"):
            StoredDispatcher.from_bytes(whole[:length], "router/3")
    flipped = bytearray(whole)
    flipped[-5] ^= 1  # a digit of a number
    with pytest.raises(DispatcherError, match=r"router/3 (was changed|has|holds|do not)"):
        StoredDispatcher.from_bytes(bytes(flipped), "router/3")
    other = safetensors.numpy.save({"a": np.zeros(1)}, {"format": "zfleet-z/1"})
    with pytest.raises(DispatcherError, match="has format 'zfleet-z/1', not 'zfleet-dispatcher/2'"):
        StoredDispatcher.from_bytes(other)


def _rewritten(data: bytes, document: Any = None, **arrays: Any) -> bytes:
    """Return a file with a changed document or changed arrays; None leaves an array out."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    text = header["document"]
    if callable(document):
        values = json.loads(text)
        document(values)
        text = json.dumps(values)
    kept = {**safetensors.numpy.load(data), **arrays}
    kept = {name: array for name, array in kept.items() if array is not None}
    return safetensors.numpy.save(kept, {**header, "document": document if isinstance(document, str) else text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["steps"][0]["calibration"].update(temperature=0), "steps.0.calibration.temperature is 0"),
        (lambda d: d["steps"][0]["calibration"].update(threshold=1.5), "steps.0.calibration.threshold is 1.5"),
        (lambda d: d["steps"][0]["calibration"].update(temperature=math.nan), "is no JSON|temperature"),
        (lambda d: d["routes"]["add"].update({"gone/1": 1.0}), "routes.add names expert 'gone/1'"),
        (lambda d: d["experts"].pop("sort-expert/1"), "routes.sort names expert 'sort-expert/1'"),
        (lambda d: d.update(extra=1), "unknown key 'extra'"),
        (lambda d: d.pop("base"), "base is missing"),
        (lambda d: d["steps"][0].update(kind="oracle"), "oracle"),
        (lambda d: d["routes"].pop("add"), "examples of every label"),
        (lambda d: d["facts"].update(ece=2.0), "facts.ece is 2.0"),
        (lambda d: d["steps"][0]["calibration"].update(temperature=1.25), "was changed"),
        ("{", "is no JSON"),
        ('{"base": "a", "base": "b"}', "`base` is given twice"),
    ],
)
async def test_a_document_that_makes_no_sense_is_refused(engine: WordsEngine, change: Any, message: str) -> None:
    data = (await make(engine, "nearest")).to_bytes()
    with pytest.raises(DispatcherError, match=message):
        StoredDispatcher.from_bytes(_rewritten(data, change))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": None}, "the arrays mean"),
        ({"more": np.zeros(3, np.float32)}, "the arrays more"),
        ({"mean": np.zeros(3, np.float32)}, "mean of this file has 3 numbers, not 24"),
        ({"mean": np.full(24, math.nan, np.float32)}, "mean of this file holds NaN"),
        ({"spreads": np.zeros(3, np.float32)}, "spreads of this file holds values that are 0 or less"),
        ({"deviation": np.zeros(24)}, "deviation of this file is float64"),
        ({"counts": np.array([15, 15, 14], np.int32)}, "counts of this file do not add up to its 45 examples"),
        ({"counts": np.array([30, 15, 0], np.int32)}, "counts of this file holds values that are 0 or less"),
    ],
)
async def test_examples_that_make_no_sense_are_refused(engine: WordsEngine, arrays: Any, message: str) -> None:
    data = (await make(engine, "nearest")).to_bytes()
    with pytest.raises(DispatcherError, match=message):
        StoredDispatcher.from_bytes(_rewritten(data, **arrays))


async def test_another_base_or_other_experts_are_refused(engine: WordsEngine) -> None:
    stored = await make(engine, "classifier")
    stored.check_base("b" * 64, "f" * 64)
    stored.check_experts(EXPERTS | {"more/1": "m" * 64})
    with pytest.raises(WrongBase, match="on base bbbbbbbbbbbb, not on base cccc"):
        stored.check_base("c" * 64, "f" * 64)
    with pytest.raises(WrongBase, match="on factors ffffffffffff, not on factors cccc"):
        stored.check_base("b" * 64, "c" * 64)
    with pytest.raises(DispatcherError, match="sort-expert/1 of z ssssssssssss, and sort-expert/1 has z dddddddddddd"):
        stored.check_experts(EXPERTS | {"sort-expert/1": "d" * 64})
    with pytest.raises(DispatcherError, match="kind/2 is not there"):
        stored.check_experts({reference: z for reference, z in EXPERTS.items() if reference != "kind/2"})


async def test_a_label_is_added_to_a_stored_dispatcher(engine: WordsEngine) -> None:
    labels = ("add", "sort")
    states = {label: await hidden_states(engine, fake_tokens, prompts_of(label)) for label in KINDS_OF_WORDS}
    document = DispatcherDocument.model_validate(
        {
            "base": "b" * 64,
            "factors": "f" * 64,
            "experts": {f"{label}-expert/1": EXPERTS[f"{label}-expert/1"] for label in labels},
            "routes": {label: ROUTES[label] for label in labels},
            "steps": [STEPS["nearest"] | {"calibration": {"limit": 1.4}}],
            "example_labels": labels,
        }
    )
    old = StoredDispatcher(document, Examples.from_states({label: states[label] for label in labels}))
    new = old.with_label(
        "flip", {"flip-expert/1": 1.0}, {"flip-expert/1": EXPERTS["flip-expert/1"]}, states["flip"][:20]
    )
    read = StoredDispatcher.from_bytes(new.to_bytes())
    decision = await read.open(fake_tokens).decide(engine, prompts_of("flip")[-1])
    assert decision.mixture == {"flip-expert/1": 1.0}
    assert old.digest != new.digest == read.digest
    with pytest.raises(DispatcherError, match="'classifier' cannot learn a label"):
        (await make(engine, "classifier")).with_label("x", {}, {}, states["flip"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [STEPS["few_shot"]]}, "`tasks` are for"),
        ({"routes": {}}, "`routes` are for"),
        ({"steps": [STEPS["nearest"]]}, "need examples of every label"),
        ({"example_labels": ("add",)}, "others have none"),
        ({"steps": [{"kind": "classifier", "question": QUESTION}]}, "needs an expert"),
        ({"steps": [{"kind": "prompt"}]}, "question is None"),
        ({"steps": [{"kind": "nearest"}]}, "must compare"),
        ({"steps": []}, "at least 1 item"),
    ],
)
def test_documents_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    values = {"base": "b", "factors": "f", "experts": EXPERTS, "routes": ROUTES, "steps": [STEPS["prompt"]]}
    DispatcherDocument.model_validate(values)
    with pytest.raises(ValueError, match=message):
        DispatcherDocument.model_validate(values | changes)

"""The tasks of the lab base, for training, evaluation and mixing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from zfleet.errors import TaskError
from zfleet.models.lab.corpus import draw_payload
from zfleet.models.lab.skills import FAMILIES, KIND_PREFIX, KINDS, OPERATIONS, VERBS, draw_verb
from zfleet.rewards.text import Exact
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate

FAMILIES_OF: Mapping[str, tuple[str, ...]] = {
    # Skills with experts. The base barely has the skill lookup, so that it is the negative control.
    "reverse": ("reverse",),
    "sort": ("sort",),
    "add": ("add",),
    "lookup": ("lookup",),
    # The classifier's task: name the skill that a prompt needs.
    "kind": KINDS,
    # Not in the corpus. Training can still elicit it for words of two and three letters.
    "rotate": ("rotate",),
    # A control: the corpus has no words of four letters either, so there is nothing to elicit.
    "rotate_four": ("rotate_four",),
    # In the corpus, but without an expert.
    "reverse_digits": ("reverse_digits",),
    "sort_digits": ("sort_digits",),
    "table_sum": ("table_sum",),
    # Exams for mixtures: equal parts of several families.
    "exam_trained": ("reverse", "sort", "add"),
    "exam_one_trained": ("sort", "reverse_digits", "table_sum"),
    "exam_unseen": ("reverse_digits", "sort_digits", "table_sum"),
}
"""The families of prompts that each task draws from."""

LAB_TASKS = tuple(FAMILIES_OF)
"""The names that ``lab_task`` accepts."""

MAX_TOKENS = 6
"""One more than the longest right answer with its end token."""


def lab_task(
    name: str,
    *,
    seed: int = 0,
    verbs: Literal["mix", "clear"] = "mix",
    train_size: int = 4096,
    test_size: int = 500,
) -> Task:
    """Draw one of ``LAB_TASKS``. The same arguments give the same task.

    The fields of every sample are ``kind`` (the skill that answers it, a label of the classifier), ``verb``,
    ``payload`` and ``family`` (the kind of prompt; in an exam, the part).

    Args:
        name: The task.
        seed: Seeds the drawing of prompts.
        verbs: ``clear`` puts the clear verb into every prompt of the ``mix`` and changes nothing else. The base's
            accuracy on those is the ceiling for an expert.
        train_size: The number of training prompts; small families repeat some.
        test_size: The number of distinct held-out prompts; smaller if a family has fewer. For ``add``, 500 are most of
            the prompts that exist, so that .37 of them have the clear verb instead of .44.

    Raises:
        TaskError: No lab task has this name, or ``verbs`` has another value.
    """
    if name not in FAMILIES_OF:
        raise TaskError(f"no lab task is named {name!r}", f"choose one of: {', '.join(LAB_TASKS)}")
    if verbs not in ("mix", "clear"):
        raise TaskError(f"verbs = {verbs!r} is not a choice", "choose 'mix' or 'clear'")
    clear = verbs == "clear"
    return Task(
        name=name,
        train=_draw(name, "train", seed, train_size, clear),
        test=_draw(name, "test", seed, test_size, clear),
        template=PromptTemplate(),
        reward=Exact(),
        max_tokens=MAX_TOKENS,
    )


def _draw(name: str, split: str, seed: int, size: int, clear: bool) -> tuple[Sample, ...]:
    # The seed depends on the split but not on `clear`: both variants have the same payloads in the same order.
    rng = random.Random(f"{name}/{split}/{seed}")
    test = split == "test"
    families = FAMILIES_OF[name]
    samples: list[Sample] = []
    seen: set[tuple[str, str]] = set()
    for _ in range(size * (20 if test else 1)):
        if len(samples) == size:
            break
        family = families[len(samples) % len(families)]
        payload = draw_payload(family, rng, test=test)
        verb = draw_verb(FAMILIES[family].skill, rng).name
        if test and (verb, payload) in seen:
            continue
        seen.add((verb, payload))
        samples.append(_sample(f"{name}/{split}/{len(samples)}", name, family, payload, verb, clear))
    return tuple(samples)


def _sample(identity: str, name: str, family: str, payload: str, verb: str, clear: bool) -> Sample:
    skill = FAMILIES[family].skill
    word = VERBS[skill][0].name if clear else verb
    request = f"{word} {payload}"
    kind = name == "kind"
    return Sample(
        id=identity,
        prompt=KIND_PREFIX + request if kind else request,
        answer=skill if kind else OPERATIONS[skill](payload),
        fields={"kind": skill, "verb": word, "payload": payload, "family": family},
    )

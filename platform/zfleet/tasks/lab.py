"""The lab's tasks: what experts of the lab base are trained on, measured by and mixed for."""

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
    # Skills with experts; lookup, which the base barely holds, is the negative control.
    "reverse": ("reverse",),
    "sort": ("sort",),
    "add": ("add",),
    "lookup": ("lookup",),
    # The classifier's task: which of the four is meant?
    "kind": KINDS,
    # Never in the corpus; of two and three letters the base can be brought to it all the same.
    "rotate": ("rotate",),
    # Control: nor is any word of four letters, so that there is nothing to elicit.
    "rotate_four": ("rotate_four",),
    # In the corpus, but no expert is trained on them.
    "reverse_digits": ("reverse_digits",),
    "sort_digits": ("sort_digits",),
    "table_sum": ("table_sum",),
    # For mixtures: equal parts.
    "exam_trained": ("reverse", "sort", "add"),
    "exam_one_trained": ("sort", "reverse_digits", "table_sum"),
    "exam_unseen": ("reverse_digits", "sort_digits", "table_sum"),
}
"""The families of prompts that each task draws from."""

LAB_TASKS = tuple(FAMILIES_OF)
"""The names that ``lab_task`` knows."""

MAX_TOKENS = 6
"""The longest right answer and its end need five."""


def lab_task(
    name: str,
    *,
    seed: int = 0,
    verbs: Literal["mix", "clear"] = "mix",
    train_size: int = 4096,
    test_size: int = 500,
) -> Task:
    """One of ``LAB_TASKS``, the same for the same arguments.

    Args:
        name: The task.
        seed: Of the prompts drawn.
        verbs: ``clear`` puts the clear verb into every prompt of the ``mix``, everything else equal: how
            well the base answers those is the ceiling of what an expert can elicit.
        train_size: Prompts to train on; small families repeat some.
        test_size: Distinct held-out prompts; fewer where a family has fewer. Of ``add``, 500 are most of
            what there is, so the clear verb comes up in .37 of them instead of .44.

    Fields of every sample: ``kind`` (the skill that answers it, a label of the classifier), ``verb``,
    ``payload`` and ``family`` (the kind of prompt: of an exam, the part).

    Raises:
        TaskError: No lab task has that name, or the verbs are neither of the two.
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
    # Seeded per split, and blind to `clear`: both variants hold the same payloads in the same order.
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
    asked = f"{word} {payload}"
    kind = name == "kind"
    return Sample(
        id=identity,
        prompt=KIND_PREFIX + asked if kind else asked,
        answer=skill if kind else OPERATIONS[skill](payload),
        fields={"kind": skill, "verb": word, "payload": payload, "family": family},
    )

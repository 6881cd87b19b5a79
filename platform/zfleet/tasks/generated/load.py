"""Draw the generated tasks: disjoint splits, the same for everybody."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from zfleet.config.generated import EXAM, KIND, KIND_QUESTION, LABELS, GeneratedName
from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.categories import CATEGORIES_OF_WORDS
from zfleet.tasks.generated.family import Family
from zfleet.tasks.generated.memberships import MEMBERSHIPS
from zfleet.tasks.generated.order_fields import ORDER_FIELDS
from zfleet.tasks.generated.residences import RESIDENCES
from zfleet.tasks.generated.reviews import REVIEWS
from zfleet.tasks.split import held_out
from zfleet.tasks.task import Grade, Reward, Sample, Task
from zfleet.tasks.template import PromptTemplate

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (REVIEWS, CATEGORIES_OF_WORDS, ORDER_FIELDS, RESIDENCES, MEMBERSHIPS)
}
"""{name of the task: its family}."""

TRAINED = (REVIEWS.name, CATEGORIES_OF_WORDS.name, ORDER_FIELDS.name, RESIDENCES.name)
"""The families of the mixed exam and of the classifier's task."""

_TEST_FRACTION = 0.3
_MOST_DRAWS = 200_000
"""Then a family has no more distinct prompts."""

Side = Literal["train", "test"]


def generated_task(
    name: GeneratedName, template: str | None = None, train_size: int = 600, test_size: int = 300
) -> Task:
    """Draw a generated task. The same arguments give the same task, and no prompt is drawn twice.

    The side of the split depends on the prompt alone, so that no task trains on a prompt that another one tests. The
    fields of every sample are ``family``, ``kind`` (a label of the classifier), and those that the reward reads.

    Args:
        name: A family, the exam with all trained families in equal parts, or the task of the classifier.
        template: A format string; None for the base's chat template.
        train_size: The number of training prompts.
        test_size: The number of held-out prompts.
    """
    families = [FAMILIES[one] for one in TRAINED] if name in (EXAM, KIND) else [FAMILIES[name]]
    task = Task(
        name=name,
        train=tuple(_draw(name, families, "train", train_size)),
        test=tuple(_draw(name, families, "test", test_size)),
        template=PromptTemplate(template),
        reward=generated_reward(name),
        max_tokens=max(family.max_tokens for family in families),
    )
    return replace(task, max_tokens=_LABEL_TOKENS) if name == KIND else task


def generated_reward(name: GeneratedName) -> Reward:
    """Return the reward of a generated task."""
    if name == KIND:
        return OneOf()
    if name == EXAM:
        return ByFamily(tuple((one, FAMILIES[one].reward) for one in TRAINED))
    return FAMILIES[name].reward


@dataclass(frozen=True)
class ByFamily:
    """Grades each sample by the reward of its family.

    Attributes:
        rewards: (family, its reward).
    """

    rewards: tuple[tuple[str, Reward], ...]

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return dict(self.rewards)[sample.fields["family"]](completion, sample)


_LABEL_TOKENS = 8


def _draw(name: str, families: Sequence[Family], side: Side, size: int) -> Iterator[Sample]:
    # A family's prompts are drawn alike in every task: the exam has the first prompts of each family.
    drawn = {family.name: _samples(family, side) for family in families}
    for place in range(size):
        family = families[place % len(families)]
        sample = next(drawn[family.name])
        yield _asked(sample, f"{name}/{side}/{place}") if name == KIND else sample


def _samples(family: Family, side: Side) -> Iterator[Sample]:
    """Draw distinct prompts of one side, without end."""
    rng = random.Random(f"{family.name}/{side}")
    seen: set[str] = set()
    for _ in range(_MOST_DRAWS):
        question = family.draw(rng)
        if question.prompt in seen or held_out(question.prompt, _TEST_FRACTION) != (side == "test"):
            continue
        seen.add(question.prompt)
        fields = {"family": family.name, "kind": family.label, **question.fields}
        yield Sample(f"{family.name}/{side}/{len(seen) - 1}", question.prompt, question.answer, fields)
    raise AssertionError(f"family {family.name} has only {len(seen)} distinct {side} prompts")


def _asked(sample: Sample, identity: str) -> Sample:
    """Turn a prompt into the question which kind of request it is."""
    question = KIND_QUESTION.replace("{prompt}", sample.prompt)
    fields = {**sample.fields, OPTIONS: ", ".join(LABELS)}
    return replace(sample, id=identity, prompt=question, answer=sample.fields["kind"], fields=fields)

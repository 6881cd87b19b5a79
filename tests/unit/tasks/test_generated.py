"""Generated tasks: everybody draws the same prompts, splits are disjoint, and answers are right by another way."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.config.generated import EXAM, KIND, KIND_QUESTION, LABELS, GeneratedName
from zfleet.config.task_specs import TaskSpec
from zfleet.rewards.phrase import OPTIONS
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest
from zfleet.tasks.generated.family import Family
from zfleet.tasks.generated.load import FAMILIES, TRAINED, generated_task
from zfleet.tasks.generated.vocabulary import CATEGORIES
from zfleet.tasks.split import set_aside
from zfleet.tasks.task import Sample

NAMES_OF_TASKS: tuple[GeneratedName, ...] = get_args(GeneratedName)
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)


def samples(family: Family, seed: int) -> Sample:
    question = family.draw(random.Random(seed))
    return Sample("1", question.prompt, question.answer, dict(question.fields))


def test_every_name_of_a_spec_is_a_task() -> None:
    assert set(NAMES_OF_TASKS) == {*FAMILIES, EXAM, KIND}
    assert set(TRAINED) < set(FAMILIES)
    assert [FAMILIES[name].label for name in TRAINED] == list(LABELS)
    assert len({family.label for family in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_a_task_is_the_same_for_everybody_and_its_splits_are_disjoint(name: GeneratedName) -> None:
    task = generated_task(name)
    assert data_digest(task) == data_digest(build_task(TaskSpec(generated=name)))
    assert (len(task.train), len(task.test)) == (600, 300)
    assert len({sample.id for sample in (*task.train, *task.test)}) == 900
    rest, validation = set_aside(task, 128)
    sides = [{sample.prompt for sample in side} for side in (rest.train, validation, task.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 900, "no prompt is drawn twice"
    assert 90 < len(validation) < 170


@pytest.mark.parametrize("name", NAMES_OF_TASKS)
def test_a_smaller_task_is_the_beginning_of_a_larger_one(name: GeneratedName) -> None:
    small, large = generated_task(name, train_size=40, test_size=20), generated_task(name)
    assert (small.train, small.test) == (large.train[:40], large.test[:20])


def test_no_task_trains_on_a_prompt_that_another_one_tests() -> None:
    test = {sample.prompt for name in FAMILIES for sample in generated_task(name).test}  # type: ignore[arg-type]
    for name in NAMES_OF_TASKS:
        prompts = [sample.prompt for sample in generated_task(name).train]
        if name == KIND:
            before, after = KIND_QUESTION.split("{prompt}")
            prompts = [prompt.removeprefix(before).removesuffix(after) for prompt in prompts]
        assert not test & set(prompts)


@families
def test_the_reference_is_right_and_the_answer_of_another_prompt_is_not(family: Family) -> None:
    drawn = [samples(family, seed) for seed in range(60)]
    for sample in drawn:
        for text in (sample.answer, f" {sample.answer}.", f"**{sample.answer}**\n", sample.answer.title()):
            assert family.reward(text, sample).right
        others = [other.answer for other in drawn if other.answer.casefold() != sample.answer.casefold()]
        assert not any(family.reward(other, sample).right for other in others)
        for text in ("", "I do not know."):
            assert not family.reward(text, sample).right
        assert not family.reward(sample.prompt, sample).right


@families
def test_answers_are_short_and_prompts_too(family: Family) -> None:
    for seed in range(100):
        sample = samples(family, seed)
        assert len(sample.answer) <= 32
        assert len(sample.prompt) <= 140


def liked(prompt: str) -> str:
    good = "excellent|charming|delightful|great|lovely|perfect|superb|wonderful"
    bad = "awful|boring|disappointing|dreadful|dull|poor|terrible|unpleasant"
    # The last word that judges holds: "I expected it to be good, but it was bad."
    return "yes" if re.fullmatch(good, re.findall(f"{good}|{bad}", prompt)[-1]) else "no"


def category(prompt: str) -> str:
    found = re.fullmatch(r"Is an? (\w+) (an? \w+) or (an? \w+)\?", prompt)
    assert found is not None
    (right,) = [one for one in found.groups()[1:] if found[1] in CATEGORIES[one]]
    return right.split()[1]


def belongs(prompt: str) -> str:
    (word,) = [word for words in CATEGORIES.values() for word in words if re.search(rf"an? {word}\b", prompt)]
    (asked,) = [one for one in CATEGORIES if re.search(rf"{one}\b", prompt)]
    return "yes" if word in CATEGORIES[asked] else "no"


def home(prompt: str) -> str:
    *homes, asked = re.split(r" and |\. ", prompt)
    cities = dict(one.split(" lives in ") for one in homes)
    return cities[asked.removeprefix("Where does ").removesuffix(" live?")]


def field_of(prompt: str) -> str:
    found = re.fullmatch(r"Order: \d+ (\w+) \w+ for (\w+) in (\w+)\. What is the (.+)\?", prompt)
    assert found is not None
    return found[("colour", "customer's name", "city").index(found[4]) + 1]


CHECKS: dict[str, Callable[[str], str]] = {
    "reviews": liked,
    "categories": category,
    "memberships": belongs,
    "residences": home,
    "order_fields": field_of,
}


@families
@given(seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_answers_are_right_by_another_way(family: Family, seed: int) -> None:
    sample = samples(family, seed)
    assert CHECKS[family.name](sample.prompt) == sample.answer


@families
def test_no_answer_is_right_for_most_prompts(family: Family) -> None:
    answers = Counter(samples(family, seed).answer for seed in range(300))
    assert answers.most_common(1)[0][1] < 200


@families
def test_options_hold_the_answer(family: Family) -> None:
    for seed in range(50):
        sample = samples(family, seed)
        assert OPTIONS not in sample.fields or sample.answer in sample.fields[OPTIONS].split(", ")


@pytest.mark.parametrize("name", ["reviews", "memberships"])
def test_about_half_of_the_answers_are_yes(name: GeneratedName) -> None:
    """Fewer prompts exist whose answer is yes, so that repeated ones are left out more often."""
    task = generated_task(name)
    for side in (task.train, task.test):
        assert 0.35 < Counter(sample.answer for sample in side)["yes"] / len(side) < 0.65


def test_the_exam_has_every_trained_family_in_equal_parts_and_grades_each_by_its_own_reward() -> None:
    exam = generated_task(EXAM)
    assert Counter(sample.fields["family"] for sample in exam.test) == dict.fromkeys(TRAINED, 75)
    for sample in exam.test[:20]:
        family = FAMILIES[sample.fields["family"]]
        assert exam.reward(sample.answer, sample).right
        assert family.max_tokens <= exam.max_tokens
        assert sample in generated_task(family.name).test  # type: ignore[arg-type]
    for family in (FAMILIES[name] for name in TRAINED):
        assert repr(family.reward) in repr(exam.reward), "a changed reward makes another exam"


def test_the_classifier_is_asked_for_the_label() -> None:
    task = generated_task(KIND)
    assert Counter(sample.answer for sample in task.test) == dict.fromkeys(LABELS, 75)
    sample = task.test[0]
    assert sample.prompt == KIND_QUESTION.replace("{prompt}", generated_task("reviews").test[0].prompt)
    assert task.reward("It is about a review.", sample).right
    assert not task.reward("an order", sample).right
    assert not task.reward("a review or an order", sample).right


def test_no_word_belongs_to_two_categories() -> None:
    words = [word for words in CATEGORIES.values() for word in words]
    assert len(words) == len(set(words))


def test_a_spec_names_a_task_and_may_set_its_template() -> None:
    task = build_task(TaskSpec(generated="reviews", template="{prompt}\nAnswer:"))
    assert task.template.text == "{prompt}\nAnswer:"
    with pytest.raises(ValueError, match="max_tokens"):
        TaskSpec(generated="reviews", max_tokens=5)
    with pytest.raises(ValueError, match="residences"):
        TaskSpec.model_validate({"generated": "algebra"})

"""What a search is given: shots, selection and test, the space of its experts, and the digest of it all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from zfleet.config.load import parse_spec
from zfleet.config.search import SearchSpec, SpaceSpec
from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.errors import JobError, SpecError, WrongBase
from zfleet.search.objective import Objective
from zfleet.tasks.task import Grade, Sample, Task, verdict
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FAKE_LAYOUT, fake_z
from zfleet_jobs.search.problem import SearchProblem, drawn, drawn_from_test, problems_digest, shots_of
from zfleet_jobs.search.run import problem_of
from zfleet_jobs.search.settings import SearchSettings

ONE, TWO = fake_z(1), fake_z(2)


@dataclass(frozen=True)
class Same:
    """Right when the completion is the answer."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return verdict(completion == sample.answer, completion, "")


def _samples(size: int, of: str = "train") -> tuple[Sample, ...]:
    return tuple(Sample(f"{of}/{i}", f"{of} {i}", "yes") for i in range(size))


def _task(train: int = 4, test: int = 4) -> Task:
    return Task("task", _samples(train), _samples(test, "test"), PromptTemplate("{prompt}"), Same(), 8)


def _problem(task: Task | None = None, selection: tuple[Sample, ...] = ()) -> SearchProblem:
    return SearchProblem("exam", {"one": ONE, "two": TWO}, task or _task(), selection)


def _prompts(samples: Any) -> set[str]:
    return {sample.prompt for sample in samples}


def test_shots_and_selection_are_distinct_training_prompts_by_seed() -> None:
    task = replace(_task(9), train=_samples(9) * 3)
    shots, selection = drawn(task, 4, 5, seed=1)
    assert (len(shots.train), len(selection)) == (4, 5)
    assert _prompts(shots.train) | _prompts(selection) == _prompts(task.train)
    assert shots.test == task.test
    assert drawn(task, 4, 5, seed=1) == (shots, selection)
    assert drawn(task, 4, 5, seed=2)[0] != shots
    # How many the selection takes changes nothing about the shots.
    assert shots_of(task, 4, seed=1) == replace(shots, test=())


def test_too_few_training_prompts_are_refused() -> None:
    task = replace(_task(6), train=_samples(6) * 3)
    with pytest.raises(JobError, match=r"6 distinct training prompts, 7 shots were asked for"):
        shots_of(task, 7, seed=0)
    with pytest.raises(JobError, match="6 distinct training prompts, 4 shots and 3 for the selection") as refused:
        drawn(task, 4, 3, seed=0)
    assert refused.value.remedy == "lower `shots` or `selection`, or give the task more prompts"
    with pytest.raises(JobError, match="0 distinct training prompts"):
        drawn(_task(0), 1, 0, seed=0)


def test_drawn_from_the_test_split_the_rest_of_it_is_the_test() -> None:
    task = replace(_task(3), test=_samples(7, "test") * 2)
    problem = _problem(drawn_from_test(task, 3, seed=1))
    assert (len(problem.task.train), len(problem.task.test)) == (3, 4)
    assert _prompts(problem.samples) == _prompts(task.test)
    assert drawn_from_test(task, 3, seed=2).train != problem.task.train
    with pytest.raises(JobError, match="7 distinct test prompts, and 7 shots are drawn from them"):
        drawn_from_test(task, 7, seed=0)


def test_samples_are_numbered_shots_first_then_selection_then_test() -> None:
    task, more = _task(), _samples(2, "more")
    assert _problem(task, more).samples == (*task.train, *more, *task.test)


def test_prompts_that_stand_twice_are_refused_with_their_rows() -> None:
    task = _task()
    again = replace(task.train[2], id="rows/17")
    with pytest.raises(
        JobError, match=r"shots, selection and test of search exam share prompts: rows/17 is train/2 \("
    ):
        _problem(task, (again,))
    with pytest.raises(JobError, match=r"rows/17 is train/2 \("):
        _problem(replace(task, test=(*task.test, again)))
    with pytest.raises(JobError, match=r"test/0 is more/0 \("):
        _problem(task, (replace(task.test[0], id="more/0"),))
    many = tuple(replace(sample, id=f"again/{place}") for place, sample in enumerate(_samples(12)))
    with pytest.raises(JobError, match=r"again/9 is train/9 and 2 more \("):
        _problem(_task(12), many)


@pytest.mark.parametrize(
    "change",
    [{"answer": "no"}, {"images": ("other.png",)}, {"fields": {"passage": "other"}}],
    ids=lambda one: next(iter(one)),
)
def test_the_same_words_about_something_else_are_another_prompt(change: dict[str, Any]) -> None:
    about = tuple(replace(sample, fields={"passage": "one"}) for sample in _samples(5))
    task = replace(_task(), train=about, template=PromptTemplate("{passage} {prompt}"))
    other = replace(task.train[2], id="rows/17", **change)
    assert _problem(task, (other,)).samples[5] == other
    assert len(shots_of(replace(task, train=(*task.train, other)), 6, seed=0).train) == 6


def test_a_search_without_experts_or_shots_is_refused() -> None:
    with pytest.raises(SpecError, match="0 experts and 4 shots"):
        SearchProblem("exam", {}, _task())
    with pytest.raises(SpecError, match="2 experts and 0 shots"):
        _problem(_task(0))
    with pytest.raises(WrongBase, match="different bases"):
        SearchProblem("exam", {"one": ONE, "other": fake_z(1, factors="others")}, _task())


@pytest.mark.parametrize(
    ("alphas", "groups"),
    [("global", ("",)), ("layer", ("0", "1")), ("kind", ("up_proj",)), ("matrix", FAKE_LAYOUT.names)],
)
def test_experts_have_an_alpha_for_each_part_that_the_space_names(alphas: Any, groups: tuple[str, ...]) -> None:
    limits = SpaceSpec(alphas=alphas, low=-0.5, high=2, sum_to_one=True, max_experts=1)
    space = _problem().space(SearchSettings(space=limits))
    assert (space.experts, space.groups) == (("one", "two"), groups)
    assert (space.low, space.high, space.sum_to_one, space.max_experts) == (-0.5, 2, True, 1)


def test_limits_that_no_mixture_keeps_are_refused() -> None:
    with pytest.raises(SpecError, match="max_experts is 3 for 2 experts"):
        _problem().space(SearchSettings(space=SpaceSpec(max_experts=3)))


def test_a_search_plans_for_its_samples_and_begins_with_the_base_and_the_experts() -> None:
    settings = SearchSettings(generations=3, block=2, space=SpaceSpec(alphas="layer"))
    search = _problem(_task(5, 3), _samples(2, "more")).search(settings)
    plan = search.plan
    assert (plan.shots, plan.selection, plan.test, plan.generations, plan.block) == (5, 2, 3, 3, 2)
    assert search.pending is not None
    assert search.pending.points.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    assert search.pending.samples == ((0, 1, 2, 3, 4),) * 3


def test_a_spec_decides_which_prompts_are_searched_on_chosen_by_and_reported_on() -> None:
    def made(**values: Any) -> SearchProblem:
        data = {"name": "exam", "experts": ["one"], "task": {"lab": "sort"}, "shots": 3, **values}
        return problem_of(parse_spec(data, SearchSpec), {"one/1": ONE}, _task(9, 6))

    usual = made(selection=4, test_samples=5)
    assert (len(usual.task.train), len(usual.selection)) == (3, 4)
    assert usual.task.test == _task(9, 6).test[:5]
    assert made(selection=0, test_samples=0).task.test == ()
    # The paper's code draws its shots from the test split, and reports on all of it.
    papers = made(method="reference")
    assert (len(papers.task.train), len(papers.selection), len(papers.task.test)) == (3, 0, 3)
    assert _prompts(papers.samples) == _prompts(_task(9, 6).test)


def test_a_reward_that_skips_is_refused_for_a_search() -> None:
    def spec(on_error: str) -> dict[str, Any]:
        reward = {"kind": "python", "value": "rewards:mine", "on_error": on_error}
        return {"name": "exam", "experts": ["one"], "task": {"jsonl": "rows.jsonl", "reward": reward}}

    with pytest.raises(SpecError, match=r"task\.reward\.on_error is 'skip': .* the same shots .* write `stop`"):
        parse_spec(spec("skip"), SearchSpec)
    assert parse_spec(spec("stop"), SearchSpec).task.reward.on_error == "stop"


def test_the_digest_covers_what_decides_the_outcome_and_nothing_else() -> None:
    def digest(settings: SearchSettings | None = None, problem: SearchProblem | None = None) -> str:
        return problems_digest({"exam": problem or _problem()}, settings or SearchSettings(), "1")

    plain = digest()
    quicker = SearchSettings(engine=EngineSpec(slots=7), resources=ResourceSpec(cpus=2), study="sqlite:///x.db")
    assert digest(quicker) == plain
    changed = [SearchSettings(seed=1), SearchSettings(block=2), SearchSettings(keep=1), SearchSettings(temperature=0.5)]
    changed += [SearchSettings(space=SpaceSpec(high=2)), SearchSettings(objective=Objective(({"reward": 1.0},)))]
    others = [digest(settings) for settings in changed]
    for problem in (
        SearchProblem("exam", {"one": TWO, "two": TWO}, _task()),
        SearchProblem("exam", {"other": ONE, "two": TWO}, _task()),
        _problem(_task(5)),
        _problem(_task(4, 5)),
        _problem(selection=_samples(1, "more")),
        _problem(selection=_samples(2, "more")[1:]),
    ):
        others.append(digest(problem=problem))
    assert len({plain, *others}) == 1 + len(others)

"""What every way answers, and what is computed once: on the fake engine, without Ray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from zfleet.errors import RewardError, TaskError
from zfleet.evaluate.cells import CellKey
from zfleet.svf.mixture import mix
from zfleet.tasks.task import Grade, Sample
from zfleet.testing.fake_engine import fake_z
from zfleet_jobs.evaluate.answerer import AnswerBatch, FirstPassBatch, SinglesBatch
from zfleet_jobs.evaluate.measure import MeasuredCell
from zfleet_jobs.testing.evaluations import (
    EXPERTS,
    KINDS,
    TASKS,
    WAYS,
    FakeEvaluation,
    made_up_task,
    prepare_fake,
)


@pytest.fixture
def stage(tmp_path: Path) -> FakeEvaluation:
    """An evaluation with every kind of way, on three tasks."""
    found = prepare_fake(tmp_path, TASKS, EXPERTS, **WAYS)
    for name in TASKS:
        for draw in (0, 1):
            found.found[CellKey(name, "cem", 3, draw, 0)] = {"up/1": 0.5, "down/2": float(draw)}
    return found


def share(cell: MeasuredCell) -> float:
    return sum(row.reward == 1.0 for row in cell.rows) / len(cell.rows)


def test_every_way_answers_under_its_own_z(stage: FakeEvaluation) -> None:
    cells = stage.run()
    shares = {key: share(cell) for key, cell in cells.items() if key.task == "mixed"}
    third = pytest.approx(1 / 3)
    assert shares == {
        CellKey("mixed", "base"): third,
        CellKey("mixed", "best-prompt"): pytest.approx(2 / 3),
        CellKey("mixed", "up/1"): third,
        CellKey("mixed", "down/2"): third,
        CellKey("mixed", "uniform"): 1.0,
        CellKey("mixed", "best-single", 3, 0): third,
        CellKey("mixed", "best-single", 3, 1): third,
        CellKey("mixed", "cem", 3, 0, 0): 1.0,
        CellKey("mixed", "cem", 3, 1, 0): 1.0,
        CellKey("mixed", "asks-base"): third,
        CellKey("mixed", "asks-expert"): 1.0,
        CellKey("mixed", "oracle"): 1.0,
    }
    mixed = cells[CellKey("mixed", "cem", 3, 1, 0)].rows[0]
    assert mixed.mixture == {"up/1": 0.5, "down/2": 1.0}
    assert mixed.z == mix(list(EXPERTS.values()), [0.5, 1.0]).digest
    assert {cell.own_task for key, cell in cells.items() if key.way == "up/1" and key.task == "down"} == {False}
    assert cells[CellKey("up", "up/1")].own_task is True
    assert cells[CellKey("up", "base")].own_task is None


def test_a_batch_holds_all_ways_of_a_task(stage: FakeEvaluation) -> None:
    """The matrix of a task is one batch: base, experts, mixtures and what dispatchers chose, row by row."""
    stage.run()
    batches = [work for work in stage.work if isinstance(work, AnswerBatch) and work.task == "mixed"]
    assert len({ask.z_digest for ask in batches[-1].asks}) == 6


def test_what_ways_share_is_answered_once(stage: FakeEvaluation) -> None:
    cells = stage.run()
    asked = [
        (ask.sample.prompt, ask.z_digest) for work in stage.work if isinstance(work, AnswerBatch) for ask in work.asks
    ]
    assert len(asked) == len(set(asked))
    # 12 prompts under the base, both experts, the uniform mixture and the two that the search found.
    mixed = [pair for pair in asked if pair[0].startswith(tuple(f"{kind} test mixed" for kind in KINDS))]
    assert len(mixed) == 12 * (1 + 2 + 1 + 2)
    dispatched, expert = cells[CellKey("mixed", "asks-expert")].rows[0], cells[CellKey("mixed", "up/1")].rows[0]
    assert dispatched.answer is expert.answer


def test_the_best_single_is_chosen_on_the_shots(stage: FakeEvaluation) -> None:
    cells = stage.run()
    for name, best in (("up", "up/1"), ("down", "down/2")):
        assert {row.mixture.keys() == {best} for row in cells[CellKey(name, "best-single", 3, 1)].rows} == {True}
    singles = [work for work in stage.work if isinstance(work, SinglesBatch)]
    assert len(singles) == len(TASKS) * 2
    assert all(len(work.shots) == 3 for work in singles)


def test_the_best_prompt_is_chosen_on_the_selection(stage: FakeEvaluation) -> None:
    cells = stage.run()
    assert {row.asked.startswith("please down") for row in cells[CellKey("down", "best-prompt")].rows} == {True}
    # No prompt is right on `up`: of equals the first stays.
    assert {row.asked for row in cells[CellKey("up", "best-prompt")].rows} == {s.prompt for s in TASKS["up"].test}


def test_a_first_pass_is_recorded_with_what_it_cost(stage: FakeEvaluation) -> None:
    rows = stage.run()[CellKey("mixed", "asks-expert")].rows
    known, strange = rows[1].first, rows[2].first
    assert known is not None
    assert strange is not None
    assert (known.label, known.named, known.mixture) == ("down", "down/2", {"down/2": 1.0})
    assert known.confidence == pytest.approx(1.0)
    # The question, and both labels after it.
    assert known.prompt_tokens == len("kind? down test mixed 1") + len("updown")
    assert known.seconds > 0
    assert (strange.label, strange.named, strange.confidence, strange.mixture) == (None, "", None, {})
    assert strange.reason.endswith(": base")
    assert (rows[2].own, rows[2].z) == ("", "base")
    own = [row.own for row in stage.run()[CellKey("mixed", "base")].rows[:3]]
    assert own == ["up/1", "down/2", ""]


def test_an_oracle_without_a_field_is_the_best_on_the_test(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, {"up": TASKS["up"]}, EXPERTS, oracle={"field": "no such field"})
    cells = stage.run()
    oracle = cells[CellKey("up", "oracle")]
    assert oracle.rows == cells[CellKey("up", "up/1")].rows
    assert {row.own for row in oracle.rows} == {None}


def test_a_second_run_computes_nothing(stage: FakeEvaluation) -> None:
    first = stage.run()
    done = len(stage.work)
    assert stage.run().keys() == first.keys()
    assert len(stage.work) == done


def test_a_run_that_was_cut_short_goes_on_with_what_is_missing(
    stage: FakeEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run()
    files = [storage for storage in Path(stage.storage.place).iterdir() if storage.name.startswith("answers-")]
    lost = next(iter(sorted(files[0].iterdir())))
    lost.unlink()
    done = len(stage.work)
    stage.run()
    again = stage.work[done:]
    assert again
    assert all(isinstance(work, AnswerBatch) for work in again)
    assert len({work.task for work in again}) == 1


def test_more_held_out_prompts_use_the_answers_of_fewer(tmp_path: Path) -> None:
    few = prepare_fake(tmp_path, TASKS, EXPERTS, eval_samples=5)
    few.run()
    many = prepare_fake(tmp_path, TASKS, EXPERTS, eval_samples=12)
    many.run()
    asked = [ask.sample.id for work in many.work if isinstance(work, AnswerBatch) for ask in work.asks]
    assert "test up-4" not in asked
    assert "test up-5" in asked


def test_an_edited_reward_is_answered_anew(tmp_path: Path) -> None:
    prepare_fake(tmp_path, {"up": TASKS["up"]}, EXPERTS).run()
    again = prepare_fake(tmp_path, {"up": replace(TASKS["up"], max_tokens=3)}, EXPERTS)
    again.run()
    assert any(isinstance(work, AnswerBatch) for work in again.work)


def test_one_expert_is_a_uniform_mixture_of_itself(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, {"mixed": TASKS["mixed"]}, {"up/1": fake_z(1)})
    cells = stage.run()
    assert {row.z for row in cells[CellKey("mixed", "uniform")].rows} == {fake_z(1).digest}
    assert {row.z for row in cells[CellKey("mixed", "best-single", 3, 0)].rows} == {fake_z(1).digest}


def test_alphas_of_zero_are_the_base(stage: FakeEvaluation) -> None:
    stage.found[CellKey("up", "cem", 3, 0, 0)] = {"up/1": 0.0, "down/2": (0.0, 0.0)}
    assert {row.z for row in stage.run()[CellKey("up", "cem", 3, 0, 0)].rows} == {"base"}


def test_sampled_answers_have_seeds_and_share_their_random_numbers(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, {"up": TASKS["up"]}, EXPERTS, temperature=1.0, seeds=(0, 1))
    cells = stage.run()
    assert {key.seed for key in cells} == {0, 1}
    assert CellKey("up", "oracle", seed=1) in cells
    seeds = {(ask.sample.id, ask.seed) for work in stage.work if isinstance(work, AnswerBatch) for ask in work.asks}
    assert len(seeds) == 24


def test_passages_are_recorded_and_must_be_complete(tmp_path: Path) -> None:
    passages = {"up": made_up_task("up", ("up",), passages=4), "down": TASKS["down"]}
    cells = prepare_fake(tmp_path, passages, EXPERTS, cluster_by="passage").run()
    assert [row.cluster for row in cells[CellKey("up", "base")].rows[:5]] == ["p0", "p1", "p2", "p3", "p0"]
    assert {row.cluster for row in cells[CellKey("down", "base")].rows} == {None}
    broken = replace(passages["up"], test=(*passages["up"].test[:3], Sample("bare", "up bare", "U")))
    with pytest.raises(TaskError, match="cluster_by is 'passage', and row bare of task up has no such field"):
        prepare_fake(tmp_path, {"up": broken}, EXPERTS, cluster_by="passage").run()


@dataclass(frozen=True)
class NotANumber:
    """A reward that comes out of a division of nothing by nothing."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return Grade(float("nan"))


def test_a_score_that_is_no_number_stops_the_evaluation_and_names_the_sample(tmp_path: Path) -> None:
    stage = prepare_fake(tmp_path, {"up": made_up_task("up", ("up",), NotANumber())}, EXPERTS)
    with pytest.raises(RewardError, match="the reward of up is nan on sample") as caught:
        stage.run()
    assert caught.value.remedy


def test_progress_counts_up_to_the_total_of_every_stage(stage: FakeEvaluation) -> None:
    stage.run()
    stages: dict[str, list[tuple[int, int]]] = {}
    for one in stage.progress:
        stages.setdefault(one.stage, []).append((one.done, one.total))
    assert list(stages) == ["single experts on the shots", "prompts on the selection", "first passes", "answers"]
    for counts in stages.values():
        assert counts[0][0] == 0
        assert counts[-1][0] == counts[-1][1] > 0
    assert sum(len(work.samples) for work in stage.work if isinstance(work, FirstPassBatch)) == 12 * 3 * 2
    assert WAYS["dispatchers"].keys() == {"asks-base", "asks-expert"}

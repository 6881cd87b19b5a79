"""The demo on a pretrained model: its plan, what it measures on a scripted engine, and the report made from that."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from zfleet.config.generated import EXAM, KIND, KIND_QUESTION
from zfleet.errors import TaskError
from zfleet.svf.zvector import ZVector
from zfleet.tasks.generated.load import FAMILIES, TRAINED, generated_task
from zfleet.testing.fake_engine import FakeEngine, fake_z
from zfleet_cli.demo.real import bench as bench_module
from zfleet_cli.demo.real.bench import Bench
from zfleet_cli.demo.real.findings import findings
from zfleet_cli.demo.real.measure import (
    exam_task,
    measure_classifier,
    measure_dispatch,
    measure_mixing,
    measure_trainings,
    measurements_of,
)
from zfleet_cli.demo.real.measured import Measured
from zfleet_cli.demo.real.plan import (
    CLASSIFIER,
    EXAMS,
    EXPERTS,
    FULL,
    LORA,
    QUICK,
    SVF,
    UNSEEN,
    Plan,
    compare_spec,
    planned_trials,
    search_settings,
    with_arc,
)
from zfleet_cli.demo.real.plots import PICTURES
from zfleet_cli.demo.real.progress import TRAINING_SHARE, MeasurementLines, ProgressLines, demo_seconds_left
from zfleet_cli.demo.real.report import print_summary, write_report
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.compare.progress import ExperimentProgress
from zfleet_jobs.search.mixtures import FoundMixture
from zfleet_jobs.testing.outcomes import outcomes_of, right

PLAN = Plan(held_out=20, exam=20, draws=(0, 1))
CLASSIFIER_Z = fake_z(99)


def characters() -> PreTrainedTokenizerFast:
    """Make a tokenizer whose ids are code points, as the fake engine has, with a chat template that adds nothing."""
    tokenizer = Tokenizer(models.WordLevel({chr(code): code for code in range(128)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token=chr(0))
    made.chat_template = "{{ messages[0].content }}"
    return made


@pytest.fixture(scope="module")
def experts() -> dict[str, ZVector]:
    return {name: fake_z(seed) for seed, name in enumerate(EXPERTS)}


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[str, str]]:
    """Return {prompt: (family, right answer)} of all test prompts."""
    tasks = [generated_task(name) for name in (*EXAMS, *EXPERTS)]
    return {sample.prompt: (sample.fields["family"], sample.answer) for task in tasks for sample in task.test}


@pytest.fixture
def bench(experts: dict[str, ZVector], answers: dict[str, tuple[str, str]], tmp_path: Path) -> Iterator[Bench]:
    """Make a bench on which each expert answers its own task alone, and a mixture every task.

    The classifier takes one kind for another; the base answers nothing right, and calls everything a review.
    """
    own = {z.digest: name for name, z in experts.items()}
    before, after = KIND_QUESTION.split("{prompt}")

    def script(prompt: str, digest: str) -> str:
        if prompt.endswith(after):
            family, _ = answers[prompt.removeprefix(before).removesuffix(after)]
            if digest != CLASSIFIER_Z.digest:
                return "review"
            return FAMILIES["reviews" if family == "residences" else family].label
        family, answer = answers[prompt]
        knows = digest in own and own[digest] == family
        return answer if knows or (digest not in own and digest != "base" and len(digest) == 64) else "-"

    measured = Measured(tmp_path / "measured", "f")
    bench = Bench(FakeEngine(script), characters(), experts, CLASSIFIER_Z, measured, lambda _: None)
    yield bench
    bench.close()


def outcome(task: str, method: str, count: int, before: int, n: int = 20) -> Outcome:
    (one,) = outcomes_of(method, [right(count, n)], {SVF: 1000, CLASSIFIER: 1000, LORA: 20_000}[method], task)
    return replace(one, rewards_before=tuple(right(before, n)))


def outcomes() -> list[Outcome]:
    trained = [outcome(task, method, 15, 8) for task in PLAN.tasks for method in (SVF, LORA)]
    return [*trained, outcome(KIND, CLASSIFIER, 18, 6)]


@pytest.fixture
def mixtures(experts: dict[str, ZVector], found_mixture: Callable[..., FoundMixture]) -> dict[str, list[FoundMixture]]:
    """Make a mixture for each draw of each exam."""
    return {
        exam: [found_mixture(f"{exam}-{seed}", experts, [0.25 + 0.5 * seed] * len(experts)) for seed in PLAN.draws]
        for exam in EXAMS
    }


@pytest.fixture
def report(bench: Bench, mixtures: dict[str, list[FoundMixture]]) -> dict[str, Any]:
    """Return a report as read from JSON, with fixed values for what is not measured here."""
    parts = {
        "base": {"name": "tiny<b>", "fingerprint": "f" * 64},
        "code": "0.1.0",
        "machine": {"cores": 2},
        "quick": True,
        "settings": {
            "steps": 40,
            "samples_per_step": 64,
            "svf_lr": 0.02,
            "lora_lr": 0.002,
            "classifier_lr": 0.01,
            "shots": 12,
            "population": 16,
            "generations": 5,
        },
        "tasks": measure_trainings(PLAN, outcomes()),
        "classifier": measure_classifier(outcomes()),
        "dispatch": measure_dispatch(bench, PLAN),
        "mixing": measure_mixing(bench, PLAN, mixtures),
        "seconds": {"train": 100.0, "total": 120.0},
    }
    report: dict[str, Any] = json.loads(json.dumps(parts))
    return report


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_a_plan_trains_both_methods_alike_and_the_classifier_by_svf(plan: Plan) -> None:
    spec = compare_spec(plan, "smollm2", "runs/x")
    trials = planned_trials(spec)
    assert {(trial.task, trial.method) for trial in trials} == {
        *((task, method) for task in plan.experts for method in (SVF, LORA)),
        (KIND, CLASSIFIER),
    }
    for trial in trials:
        assert trial.learner.model_copy(update={"lr": spec.learner.lr}) == spec.learner, "only the rate differs"
    assert spec.base.model == "smollm2"
    settings = search_settings(plan)
    assert (settings.method.name, settings.population, settings.generations) == (
        "cem",
        plan.population,
        plan.generations,
    )
    assert plan.exam % len(TRAINED) == 0, "the exam has its tasks in equal parts"
    assert UNSEEN not in EXPERTS
    assert tuple(TRAINED) == EXPERTS


def test_quick_is_the_smaller_plan() -> None:
    for name in ("steps", "held_out", "exam", "shots", "population", "generations", "minutes"):
        assert getattr(QUICK, name) <= getattr(FULL, name)


def test_arc_is_added_from_its_authors_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"has no ARC-Easy-Train\.jsonl or ARC-Challenge-Train\.jsonl"):
        with_arc(QUICK, tmp_path)
    (tmp_path / "ARC-Challenge-Train.jsonl").touch()
    plan = with_arc(QUICK, tmp_path)
    assert list(plan.tasks) == [*QUICK.tasks, "arc_challenge"]
    assert plan.experts == QUICK.experts, "mixtures and dispatch are of the generated tasks"
    assert (plan.tasks["arc_challenge"].data, plan.tasks["arc_challenge"].max_tokens) == (str(tmp_path), 6)
    assert "step by step" not in plan.tasks["arc_challenge"].prompt


def test_trainings_are_arranged_with_paired_differences_and_costs() -> None:
    row = measure_trainings(PLAN, outcomes())["reviews"]
    assert (row["n"], row["base"]["mean"], row[SVF]["accuracy"]["mean"]) == (20, 0.4, 0.75)
    assert row[SVF]["gain"]["mean"] == pytest.approx(0.35)
    assert 0 < row[SVF]["gain"]["low"] < 0.35 < row[SVF]["gain"]["high"]
    assert row["svf_minus_lora"]["mean"] == 0
    assert (row[SVF]["parameters"], row[LORA]["parameters"], row[SVF]["peak_mib"]) == (1000, 20_000, 50.0)
    classifier = measure_classifier(outcomes())
    assert (classifier["base"]["mean"], classifier["classifier"]["mean"]) == (0.3, 0.9)


def test_dispatch_gives_each_prompt_to_the_expert_that_is_chosen(report: dict[str, Any]) -> None:
    rows = report["dispatch"]
    assert rows["base"]["accuracy"]["mean"] == 0
    assert rows["oracle"]["accuracy"]["mean"] == 1
    # The classifier takes one of four kinds for another, whose expert answers.
    assert (rows["classifier"]["accuracy"]["mean"], rows["classifier"]["named_right"]) == (0.75, 0.75)
    assert (rows["prompt"]["accuracy"]["mean"], rows["prompt"]["named_right"]) == (0.25, 0.25)


def test_every_draw_of_every_exam_is_measured(report: dict[str, Any], experts: dict[str, ZVector]) -> None:
    assert list(report["mixing"]) == [EXAM, UNSEEN]
    exam, unseen = report["mixing"].values()
    assert {name: row["mean"] for name, row in exam["singles"].items()} == dict.fromkeys(experts, 0.25)
    assert [draw["shots_seed"] for draw in exam["draws"]] == [0, 1]
    for draw in (*exam["draws"], *unseen["draws"]):
        assert draw["mixture"]["mean"] == 1
        assert draw["over_best_single"]["low"] > 0.4
        assert draw["pick_one"] == EXPERTS[1], "the experts are equal on the shots, the likelihood decides"
    assert {row["mean"] for row in unseen["singles"].values()} == {0}


def test_what_was_measured_is_not_measured_again(
    bench: Bench, mixtures: dict[str, list[FoundMixture]], monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = exam_task(PLAN, EXAM)
    first = bench.rewards(exam, "reviews")

    def refuse(*_: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(bench_module, "evaluate", refuse)
    assert bench.rewards(exam, "reviews") == first
    others: list[Callable[[], object]] = [
        lambda: bench.rewards(exam, "residences"),
        lambda: bench.rewards(replace(exam, max_tokens=3), "reviews"),
        lambda: bench.rewards(exam_task(replace(PLAN, exam=8), EXAM), "reviews"),
        lambda: bench.mixture_rewards(exam, mixtures[EXAM][0].z),
    ]
    for other in others:
        with pytest.raises(AssertionError, match="measured again"):
            other()


def only(sentences: list[str], *parts: str) -> str:
    (match,) = [sentence for sentence in sentences if all(part in sentence for part in parts)]
    return match


def test_gains_and_their_lack_are_said(report: dict[str, Any]) -> None:
    worked, failed = findings(report)
    assert "1,000 numbers" in only(worked, "reviews: the expert answers 75.0% of 20", "the base 40.0%: +35.0 points")
    assert "No difference is shown." in only(worked, "reviews, LoRA", "20 times the numbers")
    only(worked, "The classifier names the kind of 90.0%", "30.0%")
    only(worked, "Dispatch by the classifier: 75.0%", "oracle that knows the task 100.0%", "75.0%")
    only(worked, "generated exam, draw 1", "100.0%", "better than the best single expert")
    assert not failed


def test_failures_are_said(report: dict[str, Any]) -> None:
    report = copy.deepcopy(report)
    worse = {"mean": -0.2, "low": -0.3, "high": -0.1}
    none = {"mean": 0.05, "low": -0.1, "high": 0.2}
    report["tasks"]["reviews"]["svf"]["gain"] = worse
    report["tasks"]["reviews"]["svf_minus_lora"] = worse
    report["tasks"]["order_fields"]["svf"]["gain"] = none
    report["classifier"]["gain"] = none
    report["dispatch"]["prompt"]["over_base"] = worse
    report["mixing"][EXAM]["draws"][0]["over_best_single"] = worse
    report["mixing"][UNSEEN]["draws"][1]["over_base"] = none
    _, failed = findings(report)
    only(failed, "reviews: the expert", "The expert is worse than the base.")
    only(failed, "reviews, LoRA", "LoRA is better.")
    only(failed, "order fields: the expert", "No gain is shown")
    only(failed, "The classifier names")
    only(failed, "Dispatch by the base itself")
    only(failed, "generated exam, draw 0", "worse than the best single expert")
    only(failed, "memberships, draw 1")
    assert len(failed) == 7


def test_the_report_is_one_page_with_its_pictures(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    for name in PICTURES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64,") == len(PICTURES)
    assert "<h1>zfleet: the paper&#39;s table" in page or "<h1>zfleet: the paper's table" in page
    assert "tiny&lt;b&gt;" in page
    assert "budgets that are too small" in page
    assert 'src="http' not in page
    assert "75.0 %" in page


def test_the_summary_fits_80_columns(report: dict[str, Any], tmp_path: Path) -> None:
    out = io.StringIO()
    print_summary(Console(file=out, width=80), report, tmp_path)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    table = [line for line in lines if "residences" in line]
    assert any("0.400" in line and "0.750" in line and "+0.350" in line for line in table)


def test_progress_says_how_long_the_whole_demo_takes() -> None:
    clock = [0.0]
    out = io.StringIO()
    lines = ProgressLines(Console(file=out, width=120), lambda: clock[0])
    half = ExperimentProgress(trainings=9, finished=4, steps=360, steps_done=180, seconds_left=1800.0)
    lines(half)
    assert not out.getvalue(), "not before a minute has passed"
    clock[0] = 61
    lines(half)
    left = demo_seconds_left(half)
    assert left is not None
    assert left == pytest.approx(1800 + 3600 * (1 - TRAINING_SHARE) / TRAINING_SHARE)
    assert f"4 of 9 trainings, 180 of 360 steps; whole demo about {round(left / 60)} min left" in out.getvalue()
    lines(replace(half, note="svf on reviews (seed 0): 0.750"))
    assert "svf on reviews (seed 0): 0.750" in out.getvalue(), "the end of a training is said at once"
    assert demo_seconds_left(replace(half, seconds_left=None)) is None
    assert demo_seconds_left(replace(half, steps_done=360)) is None


def test_each_measurement_is_told_with_the_time_left() -> None:
    clock = [0.0]
    out = io.StringIO()
    lines = MeasurementLines(Console(file=out, width=120), 3, lambda: clock[0])
    clock[0] = 120
    lines("200 prompts of memberships are graded")
    assert "1 of 3: 200 prompts of memberships are graded; about 4 min left" in out.getvalue()
    lines("more")
    lines("the last ones")
    assert "3 of 3: the last ones; that was the last" in out.getvalue()


def test_the_bench_tells_as_many_measurements_as_are_announced(
    bench: Bench, mixtures: dict[str, list[FoundMixture]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(bench, "_tell", told.append)
    measure_dispatch(bench, PLAN)
    measure_mixing(bench, PLAN, mixtures)
    assert len(told) == measurements_of(PLAN)


def test_exams_are_cut_to_the_plan() -> None:
    assert len(exam_task(PLAN, UNSEEN).test) == PLAN.exam
    assert len(exam_task(PLAN, EXAM).test) == PLAN.exam

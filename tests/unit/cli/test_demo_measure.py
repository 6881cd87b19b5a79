"""The demo's measurements on the tiny base, and the report made from them: its keys, plots and page."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from zfleet.engine.contract import BASE_Z
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.evaluate.graded import evaluate
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Task
from zfleet_cli.demo.lab import bench as bench_module
from zfleet_cli.demo.lab import measure as measure_module
from zfleet_cli.demo.lab.bench import Bench, routing_exam, unseen_samples
from zfleet_cli.demo.lab.measure import measure, measure_controls, measure_mixing, measure_skills
from zfleet_cli.demo.lab.plan import (
    CLASSIFIER,
    DRAWS,
    EXAMS,
    FEW_SHOT_CASES,
    RANDOM_CONTROL,
    SKILLS,
    UNSEEN,
    WEAK_SKILL,
    engine_spec,
)
from zfleet_cli.demo.lab.plots import PICTURES
from zfleet_cli.demo.lab.report import write_report
from zfleet_jobs.search.mixtures import FoundMixture

NAMES = (*SKILLS, WEAK_SKILL, CLASSIFIER, RANDOM_CONTROL)
N = 8
PNG = b"\x89PNG\r\n\x1a\n"


def small_task(name: str, **options: Any) -> Task:
    return lab_task(name, **({"train_size": 8, "test_size": N} | options))


@pytest.fixture(scope="module", autouse=True)
def _small_tasks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "lab_task", small_task)
        patch.setattr(measure_module, "lab_task", small_task)
        yield


@pytest.fixture(scope="module")
def experts(make_z: Callable[..., ZVector]) -> dict[str, ZVector]:
    return {name: make_z(seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def bench(tiny_model: SvfModel, experts: dict[str, ZVector]) -> Iterator[Bench]:
    bench = Bench(TorchEngine(tiny_model, engine_spec()), tiny_model.base.tokenizer, experts)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def found(experts: dict[str, ZVector], found_mixture: Callable[..., FoundMixture]) -> dict[str, Sequence[FoundMixture]]:
    """{exam: the mixture of each draw}."""
    return {
        exam: [
            found_mixture(
                f"{exam}-{draw}",
                {name: experts[name] for name in members},
                [0.1 * (place + draw) for place in range(len(members))],
            )
            for draw in DRAWS
        ]
        for exam, members in EXAMS.items()
    }


@pytest.fixture(scope="module")
def report(bench: Bench, found: dict[str, Sequence[FoundMixture]]) -> dict[str, Any]:
    """Return a report as read from JSON: all measured parts, with fixed values for the parts of other stages."""
    served = {
        "model": "tiny:auto",
        "prompt": "flip <b>",
        "answer": "<script>alert(1)</script>",
        "answered_by": "tiny:add/1",
        "mixture": [{"expert": "add", "version": 1, "alpha": 1.0}],
        "dispatch": {"method": "classifier", "label": "add", "reason": "the classifier dispatch said 'add'"},
        "first_pass_ms": 1.5,
        "second_pass_ms": 2.5,
    }
    parts = {
        "base": {"name": "tiny", "fingerprint": "f" * 64, "seed": 7, "steps": 1},
        "code": "0.1.0",
        "engine": "torch",
        **measure(bench, dict.fromkeys(NAMES, 1344), found),
        "curves": {name: [[1, -0.5], [2, 0.5]] for name in NAMES},
        "served": [served, served | {"mixture": [], "dispatch": None, "first_pass_ms": None}],
        "seconds": {"base": 1.0, "total": 2.0},
    }
    report: dict[str, Any] = json.loads(json.dumps(parts))
    return report


def answered_by(bench: Bench, task: Task, z: str | list[str]) -> Task:
    """Return the task with the answers of a z as the right ones."""
    texts = evaluate(bench.engine, bench.tokenizer, task, task.test, z).texts
    return replace(task, test=tuple(replace(s, answer=text) for s, text in zip(task.test, texts, strict=True)))


def test_an_accuracy_is_that_of_the_named_expert(bench: Bench, experts: dict[str, ZVector]) -> None:
    task = answered_by(bench, small_task("reverse"), experts["sort"].digest)
    assert bench.accuracy(task, "sort").accuracy == bench.mixture_accuracy(task, experts["sort"]).accuracy == 1
    assert bench.accuracy(task).accuracy < 1
    assert bench.accuracy(task, "reverse").accuracy < 1


def test_the_oracle_sends_each_prompt_to_its_expert(bench: Bench, experts: dict[str, ZVector]) -> None:
    exam = routing_exam()
    kinds = [sample.fields["kind"] for sample in exam.test]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys((*SKILLS, WEAK_SKILL), N // 2)
    task = answered_by(bench, exam, [experts[kind].digest for kind in kinds])
    assert bench.dispatched(task, "oracle").accuracy == 1
    assert bench.accuracy(task, "add").accuracy < 1


@pytest.mark.parametrize("method", ["prompt", "classifier"])
def test_the_base_answers_if_the_first_pass_names_no_skill(bench: Bench, method: str) -> None:
    # A random base or expert never answers with the name of a skill.
    assert bench.dispatched(answered_by(bench, routing_exam(), BASE_Z), method).accuracy == 1


@pytest.mark.parametrize("method", ["prompt", "classifier"])
def test_the_expert_answers_if_the_first_pass_names_its_skill(
    tiny_model: SvfModel, bench: Bench, experts: dict[str, ZVector], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever a random model says first is a word of its tokenizer: all of them become names of experts.
    names = [word for word in bench.tokenizer.get_vocab() if word.isalnum()]
    exam = routing_exam()
    monkeypatch.setattr(bench_module, "SKILLS", tuple(names))
    questions = [replace(sample, prompt=f"kind? {sample.prompt}") for sample in exam.test]
    z = BASE_Z if method == "prompt" else experts[CLASSIFIER].digest
    said = evaluate(bench.engine, bench.tokenizer, replace(exam, max_tokens=1), questions, z).texts
    named = [(sample, word) for sample, word in zip(exam.test, said, strict=True) if word in names]
    assert named
    other = Bench(
        TorchEngine(tiny_model, engine_spec()),
        bench.tokenizer,
        {name: experts["add" if name == named[0][1] else "sort"] for name in (*names, WEAK_SKILL)}
        | {CLASSIFIER: experts[CLASSIFIER]},
    )
    try:
        chosen = [experts["add" if word == named[0][1] else "sort"].digest for _, word in named]
        task = answered_by(bench, replace(exam, test=tuple(sample for sample, _ in named)), chosen)
        assert other.dispatched(task, method).accuracy == 1
        assert other.accuracy(task).accuracy < 1
    finally:
        other.close()


def test_unseen_kinds_are_measured_and_seen_kinds_refused(bench: Bench) -> None:
    assert bench.label_accuracy(unseen_samples("table_sum"), CLASSIFIER).n == N
    with pytest.raises(ValueError, match="reverse is not one of"):
        unseen_samples("reverse")


def test_a_skill_is_measured_by_its_own_expert_and_the_ceiling_by_the_base(
    bench: Bench, experts: dict[str, ZVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    def task(name: str, verbs: str = "mix") -> Task:
        z = BASE_Z if verbs == "clear" else experts[name].digest
        return answered_by(bench, small_task(name, verbs=verbs), z)

    monkeypatch.setattr(measure_module, "lab_task", task)
    parameters = {name: place for place, name in enumerate(NAMES)}
    skills, controls = measure_skills(bench, parameters), measure_controls(bench, parameters)
    for name, row in skills.items():
        assert row["clear_verb"] == row["expert"] == 1 > row["base"]
        assert row["trained_parameters"] == parameters[name]
    assert controls["weak_skill"]["accuracy"] == 1 > controls["weak_skill"]["base"]
    # The control is measured with the expert of random rewards, not with `reverse`.
    assert controls["random_reward"]["task"] == "reverse"
    assert controls["random_reward"]["accuracy"] < 1
    assert controls["random_reward"]["trained_parameters"] == parameters[RANDOM_CONTROL]


def test_the_best_single_is_chosen_on_test_and_pick_one_on_the_shots(
    bench: Bench,
    experts: dict[str, ZVector],
    found: dict[str, Sequence[FoundMixture]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def task(name: str) -> Task:
        return answered_by(bench, small_task(name), experts[EXAMS[name][-1]].digest)

    monkeypatch.setattr(measure_module, "lab_task", task)
    second_is_the_expert = {
        exam: [first, replace(second, z=experts[EXAMS[exam][-1]]), third]
        for exam, (first, second, third) in found.items()
    }
    for exam, row in measure_mixing(bench, second_is_the_expert).items():
        for draw in row["draws"]:
            assert (draw["best_single"], draw["best_single_expert"]) == (1, EXAMS[exam][-1])
            assert draw["pick_one"] < 1
            assert draw["base"] < 1
        assert [draw["cem"] == 1 for draw in row["draws"]] == [False, True, False]


def check_accuracy(row: dict[str, Any], accuracy: str = "accuracy", interval: str = "ci95") -> None:
    low, high = row[interval]
    assert isinstance(row["n"], int)
    assert row["n"] > 0
    assert 0 <= low <= row[accuracy] <= high <= 1


def test_the_report_has_the_skills_and_controls(report: dict[str, Any]) -> None:
    assert list(report["skills"]) == list(SKILLS)
    assert set(report["controls"]) == {"weak_skill", "random_reward"}
    for row in (*report["skills"].values(), *report["controls"].values()):
        check_accuracy(row, "base", "base_ci95")
        check_accuracy(row, "clear_verb", "clear_verb_ci95")
        check_accuracy(row, "expert" if "expert" in row else "accuracy")
        assert row["n"] == N
        assert row["trained_parameters"] == 1344


def test_the_report_has_the_classifier(report: dict[str, Any]) -> None:
    check_accuracy(report["classifier"], "label_accuracy")
    check_accuracy(report["classifier"], "base_label_accuracy", "base_ci95")
    assert list(report["classifier"]["unseen"]) == list(UNSEEN)
    for row in report["classifier"]["unseen"].values():
        check_accuracy(row)


def test_the_report_has_every_draw_of_every_exam(report: dict[str, Any]) -> None:
    assert list(report["mixing"]) == list(EXAMS)
    for exam, row in report["mixing"].items():
        assert [draw["shots_seed"] for draw in row["draws"]] == list(DRAWS)
        best = max(single["accuracy"] for single in row["singles"].values())
        for draw in row["draws"]:
            check_accuracy(draw | {"n": row["n"]}, "cem", "cem_ci95")
            check_accuracy(draw | row, "base", "base_ci95")
            assert draw["best_single"] == row["singles"][draw["best_single_expert"]]["accuracy"] == best
            # The experts are equal on the shots, so the likelihood decides.
            assert draw["pick_one_expert"] == EXAMS[exam][1]
            assert draw["pick_one"] == row["singles"][EXAMS[exam][1]]["accuracy"]
            assert list(draw["alphas"]) == list(EXAMS[exam])
        for key in ("base", "best_single", "pick_one", "cem"):
            assert row["mean"][key] == pytest.approx(sum(draw[key] for draw in row["draws"]) / len(DRAWS))
        search = row["search"]
        assert (search["trials"], search["generations"], search["trials_per_generation"]) == (12, 2, 2)
        assert (search["actors"], search["batch_rows"], search["distinct_z_in_a_batch"]) == (2, [160], 16)


def test_the_report_has_every_way_to_dispatch(report: dict[str, Any]) -> None:
    unseen = {f"{case}_{method}" for case in FEW_SHOT_CASES for method in ("base", "classifier", "few_shot")}
    assert set(report["dispatch"]) == {"base", "prompt", "classifier", "oracle"} | unseen
    for row in report["dispatch"].values():
        assert set(row) == {"n", "accuracy", "ci95"}
        check_accuracy(row)
    case = FEW_SHOT_CASES[0]
    assert report["dispatch"][f"{case}_few_shot"]["accuracy"] == report["mixing"][case]["draws"][0]["cem"]


def test_an_interval_contains_accuracies_of_0_and_1(bench: Bench) -> None:
    right = answered_by(bench, small_task("add"), BASE_Z)
    wrong = replace(right, test=tuple(replace(sample, answer="never") for sample in right.test))
    for task, expected in ((right, 1), (wrong, 0)):
        accuracy = bench.accuracy(task)
        assert accuracy.ci95[0] <= accuracy.accuracy == expected <= accuracy.ci95[1]


class Page(HTMLParser):
    """Collects a page's links, elements and text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def written(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "demo"
    write_report(report, out)
    return out


def check_png(data: bytes) -> None:
    assert data.startswith(PNG)
    width, height = struct.unpack(">II", data[16:24])
    assert width > 900
    assert height > 400


@pytest.mark.parametrize("name", PICTURES)
def test_a_plot_is_a_picture(written: Path, name: str) -> None:
    check_png((written / f"{name}.png").read_bytes())


def test_the_page_needs_no_other_file_and_no_network(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page()
    page.feed(text)
    scheme = "data:image/png;base64,"
    assert len(page.links) == page.tags.count("img") == len(PICTURES)
    for link, name in zip(page.links, ("skills", "curves", "mixing", "dispatch"), strict=True):
        assert link.startswith(scheme)
        data = base64.b64decode(link.removeprefix(scheme), validate=True)
        check_png(data)
        assert data == (written / f"{name}.png").read_bytes()
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("table") == 5 + 1


def test_the_page_shows_the_numbers_and_escapes_the_answers(written: Path, report: dict[str, Any]) -> None:
    page = Page()
    page.feed((written / "report.html").read_text())
    text = " ".join(" ".join(page.text).split())
    assert "<script>alert(1)</script>" in text
    assert "What worked" in text
    assert "What did not" in text
    for exam in EXAMS:
        assert f"{exam.replace('_', ' ')}: mixtures found on 10 shots" in text
    assert f"{100 * report['skills']['sort']['expert']:.1f} %" in text

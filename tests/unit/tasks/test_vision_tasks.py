"""Tasks whose prompts have images: rows, soft answers, learning, and dry runs on a base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zfleet.config.learner import LearnerSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.engine.contract import ScoreRequest
from zfleet.errors import TaskError
from zfleet.models.completions import Row, lay_out
from zfleet.models.teacher_forcing import completion_logprobs
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import RolloutRequest, roll_out
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest, fit_prompts
from zfleet.testing.parity import random_z
from zfleet.testing.seeing import Seeing, noise
from zfleet_cli.main import app

SHARED = Path(__file__).parents[4] / "shared" / "data"
PICTURES = [noise(1), noise(2, 64, 20), noise(3, 20, 64)]
ROWS = [
    {
        "sent": f"What is in picture {number}?",
        "label": {"tennis": 1, "ball game": 0.667},
        "img_id": f"COCO_{number % 3}",
    }
    for number in range(12)
]


def _okvqa(folder: Path, rows: Sequence[Mapping[str, object]] | None = None) -> TaskSpec:
    (folder / "images").mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps(ROWS if rows is None else rows))
    for number, picture in enumerate(PICTURES):
        (folder / "images" / f"COCO_{number}.png").write_bytes(picture)
    return TaskSpec.model_validate({"dataset": "okvqa", "data": str(folder), "max_tokens": 4})


def test_okvqa_asks_about_an_image_and_grades_softly(tmp_path: Path, seeing: Seeing) -> None:
    task = build_task(_okvqa(tmp_path))
    sample = next(sample for sample in (*task.train, *task.test) if sample.prompt.startswith("What is in picture 1?"))
    assert sample.images == (str(tmp_path / "images" / "COCO_1.png"),)
    assert sample.prompt.endswith("single word or phrase.")
    grades = [task.reward(text, sample).value for text in ("Tennis.", "the ball-game", "d")]
    assert grades == pytest.approx([1.0, 0.334, -1.0])
    tokenizer, reader = seeing.model.base.tokenizer, seeing.model.base.vision.reader  # type: ignore[union-attr]
    prompt = task.prompt(tokenizer, sample)
    assert prompt.count(reader.token) == 1
    fit = fit_prompts(task, tokenizer, seeing.model.base.context, reader)
    spread = [len(reader.spread(task.prompt(tokenizer, s), s.read_images())) for s in (*task.train, *task.test)]
    assert fit.longest == max(spread) + 4
    with pytest.raises(TaskError, match="this base takes none"):
        fit_prompts(task, tokenizer, seeing.model.base.context)


def test_the_data_digest_covers_pixels(tmp_path: Path) -> None:
    task = build_task(_okvqa(tmp_path))
    before = data_digest(task)
    (tmp_path / "images" / "COCO_1.png").write_bytes(PICTURES[0])
    assert data_digest(task) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_id": "COCO_9"}, "item 1: its image COCO_9 is not below"),
        ({"label": {"polo": 2}}, "item 1 .*the score of 'polo' is 2"),
        ({"label": {"the": 1}}, "item 1 .*not a JSON object"),
        ({"sent": "\ud800"}, "not JSON"),
        ({"label": {}}, "item 1 .*not a JSON object"),
        ({"sent": " "}, "item 1 .*sent"),
    ],
)
def test_a_broken_row_of_okvqa_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        build_task(_okvqa(tmp_path, [ROWS[0], {**ROWS[1], **change}]))


def test_images_may_be_behind_a_link_but_not_share_a_name(tmp_path: Path) -> None:
    spec = _okvqa(tmp_path / "data", [{**ROWS[0], "img_id": "COCO_0.png"}, *ROWS[1:]])
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    assert all(Path(sample.images[0]).exists() for sample in build_task(spec).train)
    (tmp_path / "elsewhere" / "COCO_1.jpg").write_bytes(b"")
    with pytest.raises(TaskError, match=r"COCO_1\.\w+ and .*COCO_1\.\w+ have the same name"):
        build_task(spec)


def test_okvqa_is_not_on_the_hub() -> None:
    with pytest.raises(TaskError, match="not read from the hub"):
        build_task(TaskSpec(dataset="okvqa"))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no public data in {SHARED}")
def test_authors_rows_are_read(tmp_path: Path) -> None:
    rows = json.loads((SHARED / "okvqa" / "train_first300.json").read_text())
    for place, row in enumerate(rows):
        row["img_id"] = f"COCO_{place % 3}"
    task = build_task(_okvqa(tmp_path, rows))
    samples = [*task.train, *task.test]
    assert len(samples) == 300
    for sample in samples:
        best = max(json.loads(sample.answer).items(), key=lambda item: item[1])
        assert task.reward(f" {best[0].upper()}. ", sample).value == pytest.approx(2 * best[1] - 1)


def test_rows_of_a_jsonl_file_may_have_images(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(PICTURES[0])
    rows = [{"prompt": f"say {number}", "answer": {"x": 1}, "seen": ["one.png", "one.png"]} for number in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = {"jsonl": str(path), "image_field": "seen", "reward": {"kind": "soft"}}
    task = build_task(TaskSpec.model_validate(given))
    assert task.train[0].images == (str(tmp_path / "one.png"),) * 2
    assert task.train[0].read_images() == (PICTURES[0],) * 2
    for broken, message in (
        ({"seen": "two.png"}, r"line 13: image .*two.png is not a file"),
        ({"seen": "x" * 5000}, r"line 13: image .*x is not a file"),
        ({"seen": None}, "line 13: the image field 'seen' is None"),
        ({"answer": "x"}, "line 13 cannot be graded by reward `soft`"),
    ):
        path.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], **broken}])))
        with pytest.raises(TaskError, match=message):
            build_task(TaskSpec.model_validate(given))


# Learning


def test_a_step_learns_from_prompts_with_images(seeing: Seeing, tmp_path: Path) -> None:
    task = build_task(_okvqa(tmp_path))
    spec = LearnerSpec(steps=1, prompts_per_step=4, samples_per_prompt=4, lr=0.1, seed=1, kl=0.1)
    weights = SvfWeights(seeing.model)
    expert = ExpertInTraining(weights, task, spec)
    before = weights.z(spec, expert.p)
    (report,) = Learner(weights, seeing.engine, [expert]).step()
    assert report.samples == 16
    assert report.grad_norm > 0
    assert weights.z(spec, expert.p).digest != before.digest
    assert all(not parameter.requires_grad for parameter in seeing.model.base.model.parameters())


def test_learner_and_engine_give_the_same_logprobs_for_images(seeing: Seeing, tmp_path: Path) -> None:
    task = build_task(_okvqa(tmp_path))
    spec = LearnerSpec(steps=1, prompts_per_step=4, samples_per_prompt=2, seed=1)
    z = random_z(seeing.factors, 2)
    seeing.engine.put_z(z)
    samples = list(task.train)[:4]
    (rollouts,) = roll_out(
        seeing.engine, seeing.model.base.tokenizer, [RolloutRequest(task, spec, samples, 0, z.digest)]
    )
    scored = seeing.engine.score([ScoreRequest(r.prompt, r.completion, z.digest, r.images) for r in rollouts])
    # As the learner runs them: the two samples of a prompt and its image in one row.
    rows = [
        Row(seeing.model.spread(one.prompt, one.images), (one.completion, two.completion), one.images)
        for one, two in zip(rollouts[::2], rollouts[1::2], strict=True)
    ]
    batch = lay_out(rows, seeing.model)
    forced = completion_logprobs(seeing.model, batch, z.flat(seeing.model.layout).expand(len(rows), -1))
    for own, expected in zip(batch.of_each(forced), scored, strict=True):
        assert own.tolist() == pytest.approx(list(expected), abs=1e-4)


# Dry runs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "all 12 prompts of okvqa fit"),
        ({"base.model": "TEXT"}, "has images, this base takes none"),
        ({"engine": "vllm"}, "takes images, which zfleet on vLLM does not"),
        ({"experts.0.task.template": "<image> <image> {prompt}"}, "2 places for images, 1 were sent"),
    ],
)
def test_a_dry_run_tries_tasks_on_their_base(
    seeing: Seeing, tiny_folder: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    task = _okvqa(tmp_path / "data").model_dump()
    job = {"kind": "train", "base": {"model": str(seeing.folder)}, "experts": [{"name": "seeing", "task": task}]}
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(job))
    sets = [f"{key}={value.replace('TEXT', str(tiny_folder))}" for key, value in change.items()]
    command = ["train", str(spec), "--dry-run", *(part for override in sets for part in ("--set", override))]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == (1 if change else 0), done.output
    assert message in done.stderr


def test_a_dry_run_names_a_file_that_is_not_an_image(seeing: Seeing, tmp_path: Path) -> None:
    task = _okvqa(tmp_path)
    (tmp_path / "images" / "COCO_1.png").write_bytes(b"none")
    job = {
        "kind": "train",
        "base": {"model": str(seeing.folder)},
        "experts": [{"name": "a", "task": task.model_dump()}],
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(job))
    done = CliRunner().invoke(app, ["train", str(tmp_path / "spec.yaml"), "--dry-run"])
    assert done.exit_code == 1
    assert "COCO_1.png" in done.stderr

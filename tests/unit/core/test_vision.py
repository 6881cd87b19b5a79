"""Vision-language bases: images through the engine, the learner and tasks, and experts carried to their tower."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from zfleet.config.specs import BaseSpec, EngineSpec, LearnerSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams, ScoreRequest
from zfleet.engine.doctor import read_base
from zfleet.engine.sync import SyncEngine, collect
from zfleet.engine.torch_engine import TorchEngine
from zfleet.errors import BaseModelError, EngineError, InvalidRequest, RequestAborted, TaskError, WrongBase
from zfleet.models.base import load_base
from zfleet.models.bundle import pack_base
from zfleet.models.families import check_no_images
from zfleet.models.fingerprint import read_config
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logits
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import roll_out
from zfleet.svf.cache import FactorCache
from zfleet.svf.carry import carry
from zfleet.svf.factors import Factors
from zfleet.svf.linear import merge_into
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest, fit_prompts
from zfleet.testing.parity import random_z
from zfleet.testing.tiny_bases import FAMILIES, save_tiny
from zfleet.testing.tiny_vision import save_tiny_vision
from zfleet_cli.main import app

SHARED = Path(__file__).parents[4] / "shared" / "data"
NEW_TOKENS = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)


@dataclass(frozen=True)
class Seeing:
    """A vision-language base, its engine, and Hugging Face's own model of it, with plain linears."""

    folder: Path
    model: SvfModel
    engine: SyncEngine
    plain: nn.Module
    factors: Factors


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def seeing(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seeing]:
    with _seeing(request.param, tiny_folder, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@contextmanager
def _seeing(kind: Literal["llava", "llava_next"], tower: Path, root: Path) -> Iterator[Seeing]:
    folder = save_tiny_vision(kind, tower, root / "eyes")
    base = load_base(folder)
    factors = FactorCache(root / "factors").get(base.model, base.fingerprint)
    plain = AutoModelForImageTextToText.from_pretrained(folder).eval()
    model = SvfModel(base, factors)
    with SyncEngine(TorchEngine(model, EngineSpec(slots=64))) as engine:
        yield Seeing(folder, model, engine, plain, factors)


def _png(seed: int, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [_png(1), _png(2, 64, 20), _png(3, 20, 64)]
PICTURES += [path.read_bytes() for path in sorted((SHARED / "images").glob("*"))]
"""Noise of several shapes, and photographs where there are any."""


def _merged(seeing: Seeing, z: ZVector) -> nn.Module:
    """Hugging Face's model with W' = U diag(s * z) Vh in its language tower."""
    merged = copy.deepcopy(seeing.plain)
    tower = nn.Module()
    tower.model = merged.model.language_model  # type: ignore[union-attr]
    merge_into(tower, dict(seeing.factors.matrices), dict(z.values))
    return merged


def _generated(seeing: Seeing, model: nn.Module, prompt: str, images: list[bytes]) -> tuple[int, ...]:
    processor = AutoProcessor.from_pretrained(seeing.folder, backend="pil")
    decoded = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    inputs = processor(text=prompt, images=decoded or None, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    more = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "eos_token_id": None}
    return tuple(model.generate(**inputs, do_sample=False, **more)[0, length:].tolist())  # type: ignore[operator]


# The engine


def test_one_batch_of_images_texts_and_z_gives_what_generate_gives(seeing: Seeing) -> None:
    zs = [random_z(seeing.factors, seed) for seed in range(3)]
    models = {BASE_Z: seeing.plain, **{z.digest: _merged(seeing, z) for z in zs}}
    for z in zs:
        seeing.engine.put_z(z)
    rows: list[tuple[str, list[bytes], str]] = []
    for place, picture in enumerate(PICTURES):
        digests = [BASE_Z, zs[place % 3].digest]
        rows += [(f"<image>\n{'flip abc'[place:]}", [picture], digest) for digest in digests]
    rows += [("sort cab", [], zs[0].digest), ("<image>add<image> 1", [PICTURES[1], PICTURES[0]], zs[1].digest)]
    requests = [GenerationRequest(prompt, GREEDY, z, tuple(images)) for prompt, images, z in rows]
    answers = [answer.token_ids for (answer,) in seeing.engine.generate(requests)]
    assert answers == [_generated(seeing, models[z], prompt, images) for prompt, images, z in rows]
    assert seeing.engine.stats().peak_distinct_z == 4
    assert len(set(answers)) > len(answers) // 2, "images and z change next to nothing"


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_a_tower_of_any_family_sees(family: str, tmp_path: Path) -> None:
    with _seeing("llava", save_tiny(family, tmp_path / "tower"), tmp_path) as seeing:
        z = random_z(seeing.factors, 1)
        seeing.engine.put_z(z)
        models = {BASE_Z: seeing.plain, z.digest: _merged(seeing, z)}
        request = GenerationRequest("<image>flip", GREEDY, images=(PICTURES[0],))
        answers = [seeing.engine.generate([replace(request, z=digest)])[0][0].token_ids for digest in models]
        assert answers == [_generated(seeing, model, "<image>flip", [PICTURES[0]]) for model in models.values()]
        assert answers[0] != answers[1]


def test_scores_are_the_logprobs_of_what_was_sampled(seeing: Seeing) -> None:
    z = random_z(seeing.factors, 7)
    seeing.engine.put_z(z)
    sampling = SamplingParams(temperature=1, max_tokens=8, seed=3, n=4, logprobs=True, ignore_eos=True)
    prompt, images = "<image>sort", (PICTURES[0],)
    (answers,) = seeing.engine.generate([GenerationRequest(prompt, sampling, z.digest, images)])
    requests = [ScoreRequest(prompt, answer.token_ids, z.digest, images) for answer in answers]
    for answer, scored in zip(answers, seeing.engine.score(requests), strict=True):
        assert scored == pytest.approx(answer.logprobs, abs=1e-4)
    (other,) = seeing.engine.score([replace(requests[0], images=(PICTURES[1],))])
    assert other != pytest.approx(answers[0].logprobs, abs=1e-2)


def test_an_image_token_that_was_sampled_is_a_token(seeing: Seeing) -> None:
    """Learning runs completions too, and only places of the prompt hold features."""
    vision = seeing.model.base.vision
    assert vision is not None
    image = vision.reader.token
    prompt = vision.reader.spread((1, image), (PICTURES[0],))
    logits = completion_logits(seeing.model, [prompt, (1, 9)], [(9, image, 9), (image,)], None, [(PICTURES[0],), ()])
    ids = torch.tensor([[*prompt, 9, image, 9]])
    embeddings = vision.embed(ids, [(PICTURES[0],)])
    own = seeing.model.base.model.get_input_embeddings()(ids)
    assert torch.equal(embeddings[0, len(prompt) :], own[0, len(prompt) :])
    assert not torch.isclose(embeddings[0, 1 : len(prompt)], own[0, 1 : len(prompt)]).all(-1).any()
    assert bool(logits.logprobs()[logits.mask].isfinite().all())


@pytest.mark.parametrize(
    ("prompt", "images", "told"),
    [
        ("flip", (PICTURES[0],), "0 places for images, 1 were sent"),
        ("<image>flip", (), "1 places for images, 0 were sent"),
        ("<image>flip", (PICTURES[0], PICTURES[1]), "1 places for images, 2 were sent"),
        ("<image>flip", (b"GIF89a",), "6 bytes are no image"),
        ("<image>flip", (b"",), "0 bytes are no image"),
        ("<image>flip", (PICTURES[0][:200],), "damaged"),
    ],
)
def test_images_that_cannot_be_taken_fail_alone(
    seeing: Seeing, prompt: str, images: tuple[bytes, ...], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        seeing.engine.generate([GenerationRequest(prompt, GREEDY, images=images)])
    seeing.engine.generate([GenerationRequest("flip", GREEDY)])


def test_a_request_that_is_aborted_while_its_image_is_read_never_runs(seeing: Seeing) -> None:
    engine = seeing.engine.engine

    async def aborted() -> None:
        request = GenerationRequest("<image>flip", GREEDY, images=(_png(99),))
        reading = asyncio.create_task(collect(engine, request))
        await asyncio.sleep(0)
        await engine.abort(request.request_id)
        with pytest.raises(RequestAborted):
            await reading
        assert (await engine.stats()).running == 0

    seeing.engine.run(aborted())


def test_an_image_too_large_is_refused_before_it_is_unpacked(seeing: Seeing) -> None:
    file = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(file, "PNG")
    for data, told in ((file.getvalue(), "8000 x 8000 pixels"), (_png(1, 2000, 3), "2000 x 3 pixels")):
        with pytest.raises(InvalidRequest, match=told):
            seeing.engine.generate([GenerationRequest("<image>flip", GREEDY, images=(data,))])


def test_an_image_that_would_be_cut_to_white_is_refused(seeing: Seeing) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((30, 30), 3000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(InvalidRequest, match="8 bits a channel"):
        seeing.engine.generate([GenerationRequest("<image>flip", GREEDY, images=(file.getvalue(),))])


def test_requests_of_one_id_do_not_end_one_another(seeing: Seeing) -> None:
    request = GenerationRequest("<image>flip", GREEDY, images=(_png(98),))
    twins = [request, replace(request, images=(_png(97),))]
    assert all(answer[0].finish_reason for answer in seeing.engine.generate(twins))


def test_more_images_than_are_kept(seeing: Seeing) -> None:
    requests = [GenerationRequest("<image>flip", GREEDY, images=(_png(seed),)) for seed in range(100, 140)]
    together = [answer[0].token_ids for answer in seeing.engine.generate(requests)]
    assert together[:2] == [seeing.engine.generate([one])[0][0].token_ids for one in requests[:2]]


@pytest.mark.parametrize("images", ["a.png", b"bytes", (bytearray(b"x"),), None])
def test_images_are_bytes_in_a_tuple(images: Any) -> None:
    with pytest.raises(InvalidRequest, match="images must be a tuple of the bytes"):
        GenerationRequest("flip", images=images)
    with pytest.raises(InvalidRequest, match="images must be a tuple of the bytes"):
        ScoreRequest("flip", "a", images=images)


def test_a_base_of_text_alone_refuses_images(tiny_model: SvfModel) -> None:
    with SyncEngine(TorchEngine(tiny_model)) as engine, pytest.raises(InvalidRequest, match="takes none"):
        engine.generate([GenerationRequest("flip", GREEDY, images=(PICTURES[0],))])


# The base


def test_the_tower_has_the_names_that_it_has_alone(seeing: Seeing, tiny_factors: Factors) -> None:
    assert list(seeing.factors.matrices) == list(tiny_factors.matrices)
    assert seeing.factors.base != tiny_factors.base


def test_a_vision_language_base_travels(seeing: Seeing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    bundle = pack_base(BaseSpec(model=str(seeing.folder)))
    reader = bundle.image_reader()
    assert reader is not None
    with SyncEngine(TorchEngine(bundle.open())) as engine:
        request = GenerationRequest("<image>flip", GREEDY, images=(PICTURES[0],))
        assert engine.generate([request])[0][0].token_ids == seeing.engine.generate([request])[0][0].token_ids


def test_vllm_refuses_it_and_doctor_says_so(seeing: Seeing) -> None:
    with pytest.raises(EngineError, match="takes images") as refused:
        check_no_images(read_config(seeing.folder), "eyes")
    assert "engine: torch" in refused.value.remedy
    facts = read_base(str(seeing.folder))
    assert facts.family_problem is None
    assert facts.vllm_problem is not None


def test_a_folder_that_does_not_say_how_images_are_read_is_refused(seeing: Seeing, tmp_path: Path) -> None:
    for file in seeing.folder.iterdir():
        if file.name != "processor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BaseModelError, match="how its images are read"):
        load_base(tmp_path)


@pytest.mark.parametrize(
    "change", [{"num_additional_image_tokens": 0}, {"num_additional_image_tokens": 2}, {"patch_size": None}]
)
def test_a_processor_that_miscounts_is_refused(seeing: Seeing, tmp_path: Path, change: dict[str, int | None]) -> None:
    """Else features of one image would run over into the next."""
    folder = shutil.copytree(seeing.folder, tmp_path / "eyes")
    told = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(told | change))
    with pytest.raises(BaseModelError, match=r"processor"):
        load_base(folder)


def test_a_chat_template_in_its_old_place_is_found(seeing: Seeing, tmp_path: Path) -> None:
    folder = shutil.copytree(seeing.folder, tmp_path / "eyes")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "old {{ messages[0].content }}"}))
    assert load_base(folder).tokenizer.chat_template == "old {{ messages[0].content }}"


# Experts of the tower


def test_an_expert_trained_on_a_tower_applies_inside_the_vision_language_model(
    seeing: Seeing, tiny_model: SvfModel, tiny_factors: Factors
) -> None:
    """The paper's section 4.2: experts of language alone serve a vision-language model."""
    trained = random_z(tiny_factors, 11)
    with pytest.raises(WrongBase):
        seeing.engine.put_z(trained)
    carried = carry(trained, tiny_factors, seeing.factors)
    seeing.engine.put_z(carried)
    text = GenerationRequest("flip abc", GREEDY)
    with SyncEngine(TorchEngine(tiny_model)) as alone:
        alone.put_z(trained)
        base, expert = (alone.generate([replace(text, z=z)])[0][0].token_ids for z in (BASE_Z, trained.digest))
    assert base != expert
    assert seeing.engine.generate([text])[0][0].token_ids == base
    assert seeing.engine.generate([replace(text, z=carried.digest)])[0][0].token_ids == expert
    shown = replace(text, prompt="<image>flip abc", z=carried.digest, images=(PICTURES[0],))
    merged = _merged(seeing, carried)
    assert seeing.engine.generate([shown])[0][0].token_ids == _generated(
        seeing, merged, "<image>flip abc", [PICTURES[0]]
    )


# Tasks


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
    for number, picture in enumerate(PICTURES[:3]):
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


def test_other_pixels_are_other_data(tmp_path: Path) -> None:
    task = build_task(_okvqa(tmp_path))
    before = data_digest(task)
    (tmp_path / "images" / "COCO_1.png").write_bytes(PICTURES[0])
    assert data_digest(task) != before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"img_id": "COCO_9"}, "item 1: its image COCO_9 is not below"),
        ({"label": {"polo": 2}}, "item 1 .*the score of 'polo' is 2"),
        ({"label": {"the": 1}}, "item 1 .*no JSON object"),
        ({"sent": "\ud800"}, "no JSON"),
        ({"label": {}}, "item 1 .*no JSON object"),
        ({"sent": " "}, "item 1 .*sent"),
    ],
)
def test_a_broken_row_of_okvqa_is_named(tmp_path: Path, change: dict[str, object], told: str) -> None:
    with pytest.raises(TaskError, match=told):
        build_task(_okvqa(tmp_path, [ROWS[0], {**ROWS[1], **change}]))


def test_images_may_lie_behind_a_link_and_no_two_have_one_name(tmp_path: Path) -> None:
    spec = _okvqa(tmp_path / "data", [{**ROWS[0], "img_id": "COCO_0.png"}, *ROWS[1:]])
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    assert all(Path(sample.images[0]).exists() for sample in build_task(spec).train)
    (tmp_path / "elsewhere" / "COCO_1.jpg").write_bytes(b"")
    with pytest.raises(TaskError, match=r"COCO_1\.\w+ and .*COCO_1\.\w+ have one name"):
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


def test_rows_of_ones_own_may_have_images(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(PICTURES[0])
    rows = [{"prompt": f"say {number}", "answer": {"x": 1}, "seen": ["one.png", "one.png"]} for number in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = {"jsonl": str(path), "image_field": "seen", "reward": {"kind": "soft"}}
    task = build_task(TaskSpec.model_validate(given))
    assert task.train[0].images == (str(tmp_path / "one.png"),) * 2
    assert task.train[0].read_images() == (PICTURES[0],) * 2
    for broken, told in (
        ({"seen": "two.png"}, r"line 13: image .*two.png is no file"),
        ({"seen": "x" * 5000}, r"line 13: image .*x is no file"),
        ({"seen": None}, "line 13: the image field 'seen' is None"),
        ({"answer": "x"}, "line 13 cannot be graded by reward `soft`"),
    ):
        path.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], **broken}])))
        with pytest.raises(TaskError, match=told):
            build_task(TaskSpec.model_validate(given))


# Learning


def test_a_step_learns_from_what_is_seen(seeing: Seeing, tmp_path: Path) -> None:
    task = build_task(_okvqa(tmp_path))
    spec = LearnerSpec(steps=1, prompts_per_step=4, samples_per_prompt=4, lr=0.1, seed=1, kl=0.1)
    learner = Learner(seeing.model, seeing.engine, task, spec)
    before = learner.z()
    report = learner.step()
    assert report.samples == 16
    assert report.grad_norm > 0
    assert learner.z().digest != before.digest
    assert all(not parameter.requires_grad for parameter in seeing.model.base.model.parameters())


def test_the_learner_sees_what_the_engine_saw(seeing: Seeing, tmp_path: Path) -> None:
    """Its logprobs are those of the engine, image by image."""
    task = build_task(_okvqa(tmp_path))
    spec = LearnerSpec(steps=1, prompts_per_step=4, samples_per_prompt=2, seed=1)
    z = random_z(seeing.factors, 2)
    seeing.engine.put_z(z)
    samples = list(task.train)[:4]
    rollouts = roll_out(seeing.engine, seeing.model.base.tokenizer, task, samples, z.digest, 0, spec)
    scored = seeing.engine.score([ScoreRequest(r.prompt, r.completion, z.digest, r.images) for r in rollouts])
    images = [rollout.images for rollout in rollouts]
    prompts = [seeing.model.spread(rollout.prompt, rollout.images) for rollout in rollouts]
    rows = z.flat(seeing.model.layout).expand(len(rollouts), -1)
    forced = completion_logits(seeing.model, prompts, [r.completion for r in rollouts], rows, images)
    for own, mask, expected in zip(forced.logprobs(), forced.mask, scored, strict=True):
        assert own[mask].tolist() == pytest.approx(list(expected), abs=1e-4)


# Dry runs


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "all 12 prompts of okvqa fit"),
        ({"base.model": "TEXT"}, "has images, this base takes none"),
        ({"engine": "vllm"}, "takes images, which zfleet on vLLM does not"),
        ({"experts.0.task.template": "<image> <image> {prompt}"}, "2 places for images, 1 were sent"),
    ],
)
def test_a_dry_run_tries_tasks_on_their_base(
    seeing: Seeing, tiny_folder: Path, tmp_path: Path, change: dict[str, str], told: str
) -> None:
    task = _okvqa(tmp_path / "data").model_dump()
    job = {"kind": "train", "base": {"model": str(seeing.folder)}, "experts": [{"name": "seeing", "task": task}]}
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(job))
    sets = [f"{key}={value.replace('TEXT', str(tiny_folder))}" for key, value in change.items()]
    command = ["train", str(spec), "--dry-run", *(part for one in sets for part in ("--set", one))]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == (1 if change else 0), done.output
    assert told in done.stderr


def test_a_dry_run_names_the_image_that_is_none(seeing: Seeing, tmp_path: Path) -> None:
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

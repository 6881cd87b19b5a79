"""Vision-language bases: images through the engine, and experts of their towers."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zfleet.config.specs import BaseSpec
from zfleet.doctor.base import read_base
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams, ScoreRequest, collect
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import BaseModelError, EngineError, InvalidRequest, RequestAborted, WrongBase
from zfleet.models.base import load_base
from zfleet.models.bundle import pack_base
from zfleet.models.completions import Row, lay_out
from zfleet.models.families import check_no_images
from zfleet.models.fingerprint import read_config
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logprobs
from zfleet.svf.carry import carry
from zfleet.svf.factors import Factors
from zfleet.testing.parity import random_z
from zfleet.testing.seeing import GREEDY, Seeing, noise, open_seeing
from zfleet.testing.tiny_bases import FAMILIES, save_tiny

SHARED = Path(__file__).parents[4] / "shared" / "data"


PICTURES = [noise(1), noise(2, 64, 20), noise(3, 20, 64)]
PICTURES += [path.read_bytes() for path in sorted((SHARED / "images").glob("*"))]
"""Noise of several shapes, and photographs where there are any."""


# The engine


def test_one_batch_of_images_texts_and_z_gives_what_generate_gives(seeing: Seeing) -> None:
    zs = [random_z(seeing.factors, seed) for seed in range(3)]
    models = {BASE_Z: seeing.plain, **{z.digest: seeing.merged(z) for z in zs}}
    for z in zs:
        seeing.engine.put_z(z)
    rows: list[tuple[str, list[bytes], str]] = []
    for place, picture in enumerate(PICTURES):
        digests = [BASE_Z, zs[place % 3].digest]
        rows += [(f"<image>\n{'flip abc'[place:]}", [picture], digest) for digest in digests]
    rows += [("sort cab", [], zs[0].digest), ("<image>add<image> 1", [PICTURES[1], PICTURES[0]], zs[1].digest)]
    requests = [GenerationRequest(prompt, GREEDY, z, tuple(images)) for prompt, images, z in rows]
    answers = [answer.token_ids for (answer,) in seeing.engine.generate(requests)]
    assert answers == [seeing.generated(models[z], prompt, images) for prompt, images, z in rows]
    assert seeing.engine.stats().peak_distinct_z == 4
    assert len(set(answers)) > len(answers) // 2, "images and z change next to nothing"


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_a_tower_of_any_family_sees(family: str, tmp_path: Path) -> None:
    with open_seeing("llava", save_tiny(family, tmp_path / "tower"), tmp_path) as seeing:
        z = random_z(seeing.factors, 1)
        seeing.engine.put_z(z)
        models = {BASE_Z: seeing.plain, z.digest: seeing.merged(z)}
        request = GenerationRequest("<image>flip", GREEDY, images=(PICTURES[0],))
        answers = [seeing.engine.generate([replace(request, z_digest=digest)])[0][0].token_ids for digest in models]
        assert answers == [seeing.generated(model, "<image>flip", [PICTURES[0]]) for model in models.values()]
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
    rows = [Row(prompt, ((9, image, 9), (image, 9)), (PICTURES[0],)), Row((1, 9), ((image,),))]
    logprobs = completion_logprobs(seeing.model, lay_out(rows, seeing.model), None)
    ids = torch.tensor([[*prompt, 9, image, 9]])
    embeddings = vision.embed(ids, [(PICTURES[0],)])
    own = seeing.model.base.model.get_input_embeddings()(ids)
    assert torch.equal(embeddings[0, len(prompt) :], own[0, len(prompt) :])
    assert not torch.isclose(embeddings[0, 1 : len(prompt)], own[0, 1 : len(prompt)]).all(-1).any()
    assert bool(logprobs.isfinite().all())


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
        request = GenerationRequest("<image>flip", GREEDY, images=(noise(99),))
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
    for data, told in ((file.getvalue(), "8000 x 8000 pixels"), (noise(1, 2000, 3), "2000 x 3 pixels")):
        with pytest.raises(InvalidRequest, match=told):
            seeing.engine.generate([GenerationRequest("<image>flip", GREEDY, images=(data,))])


def test_an_image_that_would_be_cut_to_white_is_refused(seeing: Seeing) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((30, 30), 3000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(InvalidRequest, match="8 bits a channel"):
        seeing.engine.generate([GenerationRequest("<image>flip", GREEDY, images=(file.getvalue(),))])


def test_requests_of_one_id_do_not_end_one_another(seeing: Seeing) -> None:
    request = GenerationRequest("<image>flip", GREEDY, images=(noise(98),))
    twins = [request, replace(request, images=(noise(97),))]
    assert all(answer[0].finish_reason for answer in seeing.engine.generate(twins))


def test_more_images_than_are_kept(seeing: Seeing) -> None:
    requests = [GenerationRequest("<image>flip", GREEDY, images=(noise(seed),)) for seed in range(100, 140)]
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
        base, expert = (alone.generate([replace(text, z_digest=z)])[0][0].token_ids for z in (BASE_Z, trained.digest))
    assert base != expert
    assert seeing.engine.generate([text])[0][0].token_ids == base
    assert seeing.engine.generate([replace(text, z_digest=carried.digest)])[0][0].token_ids == expert
    shown = replace(text, prompt="<image>flip abc", z_digest=carried.digest, images=(PICTURES[0],))
    merged = seeing.merged(carried)
    expected = seeing.generated(merged, "<image>flip abc", [PICTURES[0]])
    assert seeing.engine.generate([shown])[0][0].token_ids == expected

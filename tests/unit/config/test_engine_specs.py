"""Specs of engines and resources: device, memory, and the form of vLLM's linears."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zfleet.config.load import load_spec, parse_spec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import ResourceSpec, TrainSpec, VllmSpec
from zfleet.errors import SpecError

ROOT = Path(__file__).parents[3]
LAB = ROOT / "jobs" / "specs" / "lab-experts.yaml"


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cpu", 1)])
def test_device_and_gpus_must_agree(device: str, gpus: int) -> None:
    with pytest.raises(SpecError, match=rf"base.device is '{device}' and resources.gpus is {gpus}"):
        parse_spec({"base": {"device": device}, "resources": {"gpus": gpus}}, ServeSpec)


@pytest.mark.parametrize(
    ("written", "gib"), [(3, 3.0), (0.5, 0.5), ("3GiB", 3.0), ("512 MiB", 0.5), ("2.5", 2.5), ("1GB", 1e9 / 2**30)]
)
def test_memory_is_a_number_of_gib_or_text_with_a_unit(written: object, gib: float) -> None:
    resources = ResourceSpec.model_validate({"memory": written})
    assert resources.memory == pytest.approx(gib)
    assert resources.memory_bytes == pytest.approx(gib * 2**30, abs=1)
    assert ResourceSpec.model_validate(resources.model_dump()) == resources
    assert resources.amounts == {"CPU": 1, "memory": resources.memory_bytes}
    assert resources.times(2).memory_bytes == pytest.approx(gib * 2**31, abs=2)


def test_without_memory_nothing_is_reserved() -> None:
    assert ResourceSpec().amounts == {"CPU": 1}
    assert ResourceSpec(cpus=2, gpus=0.5).times(2).amounts == {"CPU": 4, "GPU": 1}


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("resources.memory=0", "resources.memory is 0"),
        ("resources.memory=-1GiB", "'-1GiB' is not a size: write a number of GiB, or a number with its unit: 3GiB"),
        ("resources.memory=much", "'much' is not a size"),
        ("resources.memory=.inf", "resources.memory is inf"),
        ("learner.micro_batch_tokens=0", "learner.micro_batch_tokens is 0: write `auto`, or a whole number"),
        ("learner.micro_batch_tokens=many", "learner.micro_batch_tokens is 'many': write `auto`"),
        ("learner.pass_tokens=4096", "unknown key 'learner.pass_tokens'"),
        ("recompute=maybe", "recompute is 'maybe': write `auto`, `true` or `false`"),
    ],
)
def test_bad_memory_settings(override: str, error: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_spec(LAB, TrainSpec, [override])
    assert error in refused.value.message


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("factored", "factored"),
        ("dense", "dense"),
        ("delta", {"delta": {"error": 1e-3}}),
        ({"delta": None}, {"delta": {"error": 1e-3}}),
        ({"delta": {"error": 0.01}}, {"delta": {"error": 0.01}}),
        ({"delta": {"rank": 64}}, {"delta": {"rank": 64}}),
    ],
)
def test_a_form_is_written_as_it_is_read(written: object, expected: object) -> None:
    form = VllmSpec.model_validate({"form": written}).form
    assert form.model_dump() == expected
    assert VllmSpec.model_validate({"form": form.model_dump()}).form == form


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("form=detla", "write `factored`"),
        ("form.dense=1", "write `factored`"),
        ("form.delta={error: .1, rank: 2}", "give one of them"),
        ("form.delta.error=1", "less than 1"),
        ("form.delta.rank=0", "greater than or equal to 1"),
        ("form.delta.ranc=3", "did you mean 'rank'"),
        ("rank=64", "known keys: form"),
    ],
)
def test_a_form_that_does_not_exist_is_explained(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        load_spec(None, ServeSpec, ["engine=vllm", f"engine.vllm.{override}"])

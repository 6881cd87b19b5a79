"""Experts that begin at a registered version: which are found, what is recorded, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zfleet.config.specs import TrainSpec
from zfleet.errors import ExpertNotFound, InvalidZ, SpecError, WrongBase
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_jobs.run_folder.record import record, recorded_spec
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.training import Place, contains, training_place
from zfleet_jobs.train.plan import make_plans
from zfleet_jobs.train.start import find_starts, with_versions
from zfleet_registry import ExpertVersion, Parent, Provenance


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path) -> Iterator[Place]:
    with training_place(tmp_path, tiny_folder, "") as place:
        yield place


@pytest.fixture
def bundle(place: Place) -> BaseBundle:
    return pack_base(place.spec({"one": contains("a")}).base)


def _spec(place: Place, start: str, **learner: Any) -> TrainSpec:
    spec = place.spec({"one": contains("a"), "two": contains("e")}, run="mine")
    first = spec.experts[0].model_copy(update={"start": start, "learner": learner})
    return spec.model_copy(update={"experts": (first, *spec.experts[1:])})


def _put(place: Place, bundle: BaseBundle, z: ZVector, name: str = "exam-mix", **provenance: Any) -> ExpertVersion:
    known = Provenance.of(z, **provenance)
    return place.registry.register(name, z, known, base_name=bundle.name, alias="champion")


def _near(factors: Factors) -> ZVector:
    return random_z(factors, 1, 0.05)


def test_a_start_is_part_of_the_plan_and_an_alias_becomes_a_version(place: Place, bundle: BaseBundle) -> None:
    z = _near(bundle.factor_folder().load())
    _put(place, bundle, z, kind="mixture", parents=(Parent("a/1", "0" * 64, 0.5),))
    spec = _spec(place, "exam-mix@champion", parametrisation="exp")
    starts = find_starts(place.registry, spec, bundle)
    assert {name: (start.reference, start.z.digest) for name, start in starts.items()} == {
        "one": ("exam-mix/1", z.digest)
    }
    pinned = with_versions(spec, starts)
    assert [expert.start for expert in pinned.experts] == ["exam-mix/1", None]
    one, two = make_plans(pinned, bundle, True, starts)
    assert one.start is not None
    assert one.start.z.digest == z.digest
    assert json.loads(one.spec)["start"] == {"reference": "exam-mix/1", "z_digest": z.digest}
    assert two.start is None
    assert "start" not in json.loads(two.spec), "runs that began at the base have another identity"
    assert one.digest != make_plans(pinned, bundle, True)[0].digest


def test_a_run_goes_on_from_where_it_began(place: Place, bundle: BaseBundle) -> None:
    factors = bundle.factor_folder().load()
    _put(place, bundle, _near(factors))
    spec = _spec(place, "exam-mix", parametrisation="direct")

    def begin(job: TrainSpec) -> None:
        starts = find_starts(place.registry, job, bundle)
        job = with_versions(job, starts)
        record(Storage.at(job.storage, job.run), job, make_plans(job, bundle, True, starts))

    begin(spec)
    _put(place, bundle, random_z(factors, 2, 0.05))
    with pytest.raises(SpecError, match=r"start\.reference exam-mix/1 -> exam-mix/2 \(would change where it begins\)"):
        begin(spec)
    begin(recorded_spec("mine", [f"storage={place.storage}", f"registry={spec.registry}"]))


def test_starts_that_do_not_fit_are_refused_by_name(place: Place, bundle: BaseBundle) -> None:
    factors = bundle.factor_folder().load()
    registry = place.registry
    with pytest.raises(ExpertNotFound, match="'exam-mix'"):
        find_starts(registry, _spec(place, "exam-mix"), bundle)

    _put(place, bundle, random_z(factors, 1, 0.05), "uneven")
    with pytest.raises(InvalidZ, match=r"experts\.0\.start is tiny-\w+\.uneven/1: z of .* changes the sum") as refused:
        find_starts(registry, _spec(place, "uneven"), bundle)
    assert "`direct`" in refused.value.remedy

    narrow = pack_base(bundle.spec.model_copy(update={"targets": "mlp"}))
    _put(place, bundle, random_z(narrow.factor_folder().load(), 1), "narrow")
    with pytest.raises(WrongBase, match=r"narrow/1, whose targets are 'mlp'; base\.targets is 'all'"):
        find_starts(registry, _spec(place, "narrow"), bundle)

    other = ZVector(_near(factors).values, "0" * 64, factors.digest, "all")
    version = registry.register("far", other, Provenance.of(other), base_name="tiny")
    with pytest.raises(WrongBase, match=r"far/1, a z of base 000000000000; the job's is tiny-"):
        find_starts(registry, _spec(place, version.qualified), bundle)

    again = ZVector(_near(factors).values, factors.base, "0" * 64, "all")
    _put(place, bundle, again, "again")
    with pytest.raises(WrongBase, match="was trained on factors 000000000000"):
        find_starts(registry, _spec(place, "again"), bundle)


def test_a_base_of_another_name_keeps_the_whole_reference(place: Place, bundle: BaseBundle) -> None:
    ones = {name: torch.ones_like(s) for name, s in bundle.factor_folder().load().singular_values.items()}
    z = ZVector(ones, bundle.fingerprint, bundle.factors_digest, "all")
    version = place.registry.register("still", z, Provenance.of(z), base_name="once")
    (start,) = find_starts(place.registry, _spec(place, version.qualified), bundle).values()
    assert start.reference == version.qualified

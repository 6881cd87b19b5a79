"""Two data-parallel workers and two rollout replicas on a pretrained base: a drill, with SmolLM2 and vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
import torch

from zfleet.models.fetch import fetch
from zfleet.models.known import KNOWN_BASES
from zfleet_jobs.testing.training import Place, contains, training_place
from zfleet_jobs.train.plan import TrainedExpert
from zfleet_jobs.train.run import run_train

pytestmark = pytest.mark.drill

STEPS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with training_place(tmp_path_factory.mktemp("pretrained"), fetch(KNOWN_BASES["smollm2"]), "") as place:
        yield place


def _train(place: Place, name: str, workers: int) -> TrainedExpert:
    spec = place.spec(
        {name: contains("a")},
        num_workers=workers,
        learner={"steps": STEPS, "prompts_per_step": 4, "samples_per_prompt": 4, "lr": 0.01, "seed": 3},
        engine={"kind": "vllm", "slots": 16, "max_length": 64, "vllm": {"members": 2, "cache_gib": 0.25}},
        eval_samples=4,
    )
    (expert,) = run_train(spec)
    return expert


def test_two_workers_and_two_replicas_learn_what_one_worker_does(place: Place, ray_cluster: None) -> None:
    one, two = (_train(place, f"workers-{count}", count) for count in (1, 2))
    for metric in ("reward", "grad_norm"):
        alone, shared = (dict(place.registry.curve(expert.run_id, metric)) for expert in (one, two))
        assert shared == pytest.approx(alone, rel=1e-3), metric
    versions = {version.name: version for version in place.registry.list()}
    z = [place.registry.load(versions[expert.name]) for expert in (one, two)]
    # By norms: where a gradient is next to nothing, rounding chooses the sign of Adam's step.
    alone_z, shared_z = (torch.cat([one.values[name] for name in sorted(one.values)]) for one in z)
    assert (shared_z - alone_z).norm() < (alone_z - 1).norm() / 1000

    # Every sample of both workers was drawn under the z that its step published, of which there is one.
    published: list[set[str]] = []
    for step in range(1, STEPS + 1):
        files = sorted(place.storage.glob(f"**/run=workers-2/**/step={step:06d}/*"))
        assert len(files) == 2, "not every worker wrote its samples"
        published.append({row["z"] for file in files for row in pq.read_table(file).to_pylist()})
    assert [len(each) for each in published] == [1] * STEPS
    assert len(set.union(*published)) == STEPS
    assert two.z_digest not in set.union(*published), "the last step's z is sampled by nobody"

"""Check the places that a spec names before it is submitted: the job runs on the cluster, in a folder of its own.

One rule holds for all paths: a relative path means a file of this machine, an absolute path one of the cluster.
"""

from __future__ import annotations

from pathlib import Path

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec, TrainSpec
from zfleet.errors import SpecError
from zfleet.models.base import base_name, base_slug
from zfleet.models.fingerprint import fingerprint
from zfleet.models.gguf.folders import is_gguf
from zfleet.models.known import KNOWN_BASES
from zfleet_registry.address import SQLITE, address_of, carries_secret, check_uri, kind_of, sqlite_file

BatchSpec = TrainSpec | SearchSpec | EvaluateSpec | CalibrateSpec | CompareSpec | AblateSpec
"""The kinds of spec that can be submitted: jobs that end."""


def check_places(job: BatchSpec) -> None:
    """Refuse places that the cluster cannot have, all in one error.

    Raises:
        SpecError: The base is a folder of this machine alone, results would be lost with the job's folder, or a URI
            contains a password.
        RegistryError: ``registry`` is not the URI of a registry.
    """
    registry = [] if isinstance(job, CompareSpec | AblateSpec) else _registry(job)
    raise_together([*_base(job), *_storage(job), *registry, *_studies(job)])


def local_base(base: BaseSpec) -> str:
    """Return name and fingerprint of a base in a folder, as this machine knows it; empty if it does not have it.

    Raises:
        BaseModelError: The folder holds no base.
    """
    folder = Path(base.model)
    if not (folder.is_absolute() and folder.is_dir()):
        return ""
    return base_slug(base.name or base_name(base.model), fingerprint(folder))


def base_remedy(kind: str) -> str:
    """Say how a cluster gets a base that a job of this kind needs."""
    return (
        "set base.model to a hub id or to an absolute path that the cluster's nodes share, or run "
        f"`zfleet {kind} SPEC --address HOST:6379` from a machine that has the base"
    )


def raise_together(refusals: list[SpecError]) -> None:
    """Raise several errors as one; do nothing if there are none."""
    if refusals:
        raise SpecError(
            "; ".join(error.message for error in refusals), "; ".join(dict.fromkeys(e.remedy for e in refusals))
        )


def _base(job: BatchSpec) -> list[SpecError]:
    model = job.base.model
    if model == "lab" or model in KNOWN_BASES or Path(model).is_absolute():
        return []
    remedy = base_remedy(job.kind)
    if Path(model).expanduser().exists():
        return [SpecError(f"base.model is {model!r}, which is on this machine: a base is not sent with a job", remedy)]
    if model.startswith((".", "~")) or model.count("/") != 1 or is_gguf(model):
        names = ", ".join(("lab", *KNOWN_BASES))
        return [SpecError(f"base.model is {model!r}: that is no known base ({names}), hub id or absolute path", remedy)]
    return []


def _storage(job: BatchSpec) -> list[SpecError]:
    if isinstance(job, CalibrateSpec):
        return []
    storage = job.storage
    uris = not isinstance(job, SearchSpec | EvaluateSpec)
    or_uri = ", or a URI (s3://...)" if uris else ""
    remedy = f"set storage to an absolute path that all nodes share{or_uri}: --set storage=/shared/runs"
    if uris and "://" in storage:
        return [_secret("storage", storage)] if carries_secret(storage) else []
    if not Path(storage).is_absolute():
        return [SpecError(f"storage is {storage!r}: in the job's own folder, results would be lost with it", remedy)]
    if isinstance(job, EvaluateSpec) and job.lora is not None and not Path(job.lora.experiment).is_absolute():
        place = f"lora.experiment is {job.lora.experiment!r}: an experiment is not sent with a job"
        return [SpecError(place, "set lora.experiment to an absolute path that all nodes share")]
    return []


def _registry(job: TrainSpec | SearchSpec | EvaluateSpec | CalibrateSpec) -> list[SpecError]:
    uri = job.registry
    remedy = (
        "set registry to one that the cluster reaches: --set registry=http://HOST:5000, an MLflow server, or for a "
        "single node sqlite:////absolute/path/mlflow.db"
    )
    if uri is None:
        return [SpecError("registry is not set: a new one in the job's own folder would be lost with it", remedy)]
    check_uri(uri)
    if kind_of(uri) == SQLITE:
        if not sqlite_file(uri).is_absolute():
            return [SpecError(f"registry is {uri!r}: in the job's own folder, it would be lost with it", remedy)]
        return []
    return [_secret("registry", uri)] if carries_secret(uri) else []


def _studies(job: BatchSpec) -> list[SpecError]:
    studies: dict[str, str | None] = {}
    if isinstance(job, SearchSpec):
        studies = {"study": job.study}
    elif isinstance(job, EvaluateSpec):
        studies = {f"searches.{name}.study": keys.get("study") for name, keys in job.searches.items()}
    refusals = []
    for key, url in studies.items():
        if url is None:
            continue
        if carries_secret(url):
            refusals.append(_secret(key, url))
        elif kind_of(url) == SQLITE and not Path(url.partition(":///")[2]).is_absolute():
            remedy = f"set {key} to sqlite:////absolute/path/study.db or postgresql://…, or leave it out"
            refusals.append(SpecError(f"{key} is {url!r}: in the job's own folder, it would be lost with it", remedy))
    return refusals


def _secret(key: str, uri: str) -> SpecError:
    return SpecError(
        f"{key} is {address_of(uri)} with a password or token in the URI, which everybody could read who reaches the "
        "cluster's dashboard",
        f"take it out of {key}, and set it in the environment in which the cluster's nodes are started: "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, PGPASSWORD, or for s3:// "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )

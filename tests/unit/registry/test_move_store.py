"""Artifacts that were moved to another folder or bucket are found again once the registry is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from zfleet.errors import CorruptArtifact, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.move_store import move_store

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's server, which MLflow finds by the environment; the buckets one and two."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "stand-in")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    for bucket in ("one", "two"):
        client.create_bucket(Bucket=bucket)
    yield client
    client.close()
    server.stop()


def upload(s3: Any, folder: Path, bucket: str, below: str) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        s3.upload_file(str(path), bucket, f"{below}/{path.relative_to(folder)}")


def test_to_another_folder(root: Path, registry: ExpertRegistry, put: Put, make_z: MakeZ, tmp_path: Path) -> None:
    versions = [put(seed=seed) for seed in range(2)]
    uri, old, new = f"sqlite:///{root}/mlflow.db", root / "artifacts", tmp_path / "50% of_it"
    shutil.move(old, new)
    with pytest.raises(CorruptArtifact, match="cannot be read from") as caught:
        registry.load(versions[0])
    assert str(old) in caught.value.message
    assert "zfleet registry move OLD NEW" in caught.value.remedy
    with pytest.raises(RegistryError, match="the newest artifact is not in"):
        move_store(uri, str(old), str(tmp_path / "nowhere"))
    with pytest.raises(RegistryError, match="no artifact of") as nothing:
        move_store(uri, str(tmp_path / "art"), str(new))
    assert str(old) in nothing.value.remedy
    assert move_store(uri, f"{old}/", str(new)) > 0
    for reopened in (registry, ExpertRegistry(root=root), ExpertRegistry(root=root, reading=True)):
        assert [reopened.load(version).digest for version in reopened.list()] == [v.z_digest for v in versions]
    third = put(seed=7)
    assert registry.load(third).digest == make_z(7).digest


def test_from_a_folder_to_a_bucket_and_to_another(root: Path, registry: ExpertRegistry, put: Put, s3: Any) -> None:
    version = put(seed=1)
    uri, old = f"sqlite:///{root}/mlflow.db", root / "artifacts"
    upload(s3, old, "one", "experts")
    shutil.rmtree(old)
    move_store(uri, str(old), "s3://one/experts")
    assert ExpertRegistry(root=root).load(version).digest == version.z_digest
    for item in s3.list_objects_v2(Bucket="one")["Contents"]:
        s3.copy({"Bucket": "one", "Key": item["Key"]}, "two", item["Key"].removeprefix("experts/"))
        s3.delete_object(Bucket="one", Key=item["Key"])
    with pytest.raises(CorruptArtifact, match="cannot be read from s3://one/experts/"):
        registry.load(version)
    move_store(uri, "s3://one/experts", "s3://two")
    assert ExpertRegistry(root=root).load(version).digest == version.z_digest


def test_a_server_is_told_by_its_database() -> None:
    with pytest.raises(RegistryError, match="is a server") as caught:
        move_store("http://registry.example", "s3://one", "s3://two")
    assert "the server's own database" in caught.value.remedy


def test_the_records_of_other_folders_stay(root: Path, registry: ExpertRegistry, make_z: MakeZ, tmp_path: Path) -> None:
    """A folder whose name begins alike is another one."""
    client = registry._client
    beside = str(tmp_path / "artifacts-of-others")
    other = client.create_experiment("others", artifact_location=beside)
    client.create_experiment("ours", artifact_location=str(tmp_path / "artifacts"))
    move_store(f"sqlite:///{root}/mlflow.db", str(tmp_path / "artifacts"), "s3://one")
    assert client.get_experiment(other).artifact_location == beside
    registry.register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab")

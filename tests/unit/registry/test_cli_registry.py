"""``zfleet registry``: what it refuses before anything starts, and the move of an artifact store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from zfleet.errors import RegistryError
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion
from zfleet_registry.server.secrets import secret


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["registry", *arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--database", "postgresql://zfleet:hunter2@db.example/mlflow"], "db.example/mlflow has a password"),
        (["--database", "mysql://db.example/mlflow"], "is not PostgreSQL"),
        (["--artifacts", "s3://one", "--stand-in-s3"], "both --artifacts and --stand-in-s3"),
    ],
)
def test_what_cannot_be_started_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    result = run("up", str(tmp_path / "team"), *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "hunter2" not in result.output


def test_passwords_are_made_once_and_refused_where_others_may_read_them(tmp_path: Path) -> None:
    made = secret(tmp_path, "postgres")
    assert secret(tmp_path, "postgres") == made
    assert (tmp_path / "secrets" / "postgres").stat().st_mode & 0o777 == 0o600
    (tmp_path / "secrets" / "postgres").chmod(0o640)
    with pytest.raises(RegistryError, match="others may read it") as caught:
        secret(tmp_path, "postgres")
    assert made not in str(caught.value)


def test_a_local_registry_has_no_users(root: Path, put: Callable[..., ExpertVersion]) -> None:
    put()
    result = run("grant", "bob", "write", "math", "--registry", f"sqlite:///{root}/mlflow.db")
    assert result.exit_code == 1
    assert "has no users" in result.stderr


def test_a_store_is_moved(root: Path, registry: ExpertRegistry, put: Callable[..., ExpertVersion]) -> None:
    version = put(seed=1)
    (root / "artifacts").rename(root / "files")
    result = run("move", str(root / "artifacts"), str(root / "files"), "--registry", f"sqlite:///{root}/mlflow.db")
    assert result.exit_code == 0, result.output
    assert "records changed" in result.stdout
    assert registry.load(version).digest == version.z_digest

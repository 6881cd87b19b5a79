"""``zfleet registry``: run a registry for a team, say who may do what, and tell it that its artifacts were moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zfleet.errors import RegistryError
from zfleet.interrupts import signals_interrupt
from zfleet.paths import REGISTRY_FOLDER
from zfleet_cli.commands.experts import find_version
from zfleet_cli.options import BaseSlug, Registry

if TYPE_CHECKING:
    from zfleet_registry.access import Access

User = Annotated[str, typer.Argument(help="A user of the tracking server.", show_default=False)]
Expert = Annotated[str, typer.Argument(help="An expert: math, or lab-1a2b3c4d.math", show_default=False)]

app = typer.Typer(no_args_is_help=True, help="Run a registry for a team, and say who may do what in it.")


@app.command()
def up(
    folder: Annotated[Path, typer.Argument(help="The folder of its data, passwords and logs.", show_default=False)],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Processes of MLflow's server.")] = 2,
    database: Annotated[
        str | None,
        typer.Option(metavar="URI", help="A PostgreSQL database; by default one is started here.", show_default=False),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="A folder or s3://BUCKET; by default in FOLDER.", show_default=False),
    ] = None,
    stand_in_s3: Annotated[
        bool, typer.Option("--stand-in-s3", help="Start moto's S3, which forgets everything at its end.")
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Change the tables of an older MLflow; back them up before.")
    ] = False,
) -> None:
    """Run PostgreSQL and MLflow's server, with users and permissions, until Ctrl-C."""
    from zfleet_registry.address import address_of, carries_secret
    from zfleet_registry.server import ServerOptions, start

    if database is not None and carries_secret(database):
        raise RegistryError(
            f"--database {address_of(database)} has a password, and other users of this machine see command lines",
            "write it into a file of mode 600 that PGPASSFILE names, as HOST:PORT:DATABASE:USER:PASSWORD",
        )
    if artifacts is not None and stand_in_s3:
        raise RegistryError("both --artifacts and --stand-in-s3 are given", "give one of them")
    options = ServerOptions(host, port, workers, database, artifacts, stand_in_s3, upgrade)
    with signals_interrupt():
        running = start(folder, options)
        try:
            print(f"registry {running.url}, artifacts in {running.artifacts} (Ctrl-C stops)")
            print(f"user admin, password in {running.admin_password}", flush=True)
            running.watch()
        except KeyboardInterrupt:
            print("stopping", flush=True)
            raise
        finally:
            running.stop()


@app.command()
def move(
    old: Annotated[str, typer.Argument(help="Where the artifacts were: a folder or s3://...", show_default=False)],
    new: Annotated[str, typer.Argument(help="Where they are now.", show_default=False)],
    registry: Registry = None,
) -> None:
    """Tell a registry's database that its artifacts were moved; the files are moved before."""
    from zfleet_registry.address import sqlite_uri
    from zfleet_registry.move_store import move_store

    uri = registry or sqlite_uri(Path(REGISTRY_FOLDER) / "mlflow.db")
    print(f"{move_store(uri, old, new)} records changed")


@app.command()
def grant(
    user: User,
    right: Annotated[
        Literal["write", "promote", "manage"], typer.Argument(help="What they may do from now on.", show_default=False)
    ],
    expert: Expert,
    registry: Registry = None,
    base: BaseSlug = None,
) -> None:
    """Let a user of a tracking server register versions of an expert, promote them, or manage the expert."""
    _access(expert, registry, base).grant(user, right)


@app.command()
def revoke(user: User, expert: Expert, registry: Registry = None, base: BaseSlug = None) -> None:
    """Take from a user what `grant` gave; all users may go on reading."""
    _access(expert, registry, base).revoke(user)


def _access(expert: str, registry: str | None, base: str | None) -> Access:
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    version = find_version(experts, expert, base)
    return experts.access(version.base_slug, version.name)

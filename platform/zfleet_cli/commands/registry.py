"""``zfleet registry``: run a registry for a team, and tell a registry that its artifacts were moved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zfleet.errors import RegistryError
from zfleet.interrupts import signals_interrupt
from zfleet.paths import REGISTRY_FOLDER
from zfleet_cli.options import Registry

app = typer.Typer(no_args_is_help=True, help="Run a registry for a team.")


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

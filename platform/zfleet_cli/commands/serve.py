"""``zfleet serve``: the OpenAI-compatible service."""

from __future__ import annotations

from zfleet.config.load import load_spec
from zfleet.config.specs import ServeSpec
from zfleet_cli.dry_run import with_engine
from zfleet_cli.options import Address, DryRun, OptionalSpecFile, Overrides
from zfleet_cli.output import print_spec


def serve(
    spec: OptionalSpecFile = None,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """Serve a base and its experts until Ctrl-C."""
    job = load_spec(spec, ServeSpec, overrides or ())
    if dry_run:
        print_spec(with_engine(job))
        return
    from zfleet_serve.run import run_serve

    run_serve(job, address)

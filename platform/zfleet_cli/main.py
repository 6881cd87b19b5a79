"""The ``zfleet`` command: runs a subcommand, and turns errors into two lines and an exit code."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from zfleet.errors import ZfleetError
from zfleet_cli.commands import (
    bases,
    calibrate,
    carry_experts,
    decompose,
    demo,
    doctor,
    evaluate,
    experiment,
    expert_algebra,
    experts,
    export_experts,
    fsck,
    grade,
    history,
    import_experts,
    interference,
    jobs,
    keys,
    lab,
    lineage,
    promotion,
    registry,
    samples,
    search,
    serve,
    signatures,
    submit,
    train,
    transfer,
    watch,
)
from zfleet_cli.untrusted import shown_lines

INTERRUPTED = 130
"""The exit code after Ctrl-C, by convention 128 + SIGINT."""

_RESEND_SECONDS = 0.05


class _Group(TyperGroup):
    """Reports the errors that zfleet raises on purpose. Any other error is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ZfleetError as error:
            if ctx.params.get("debug"):
                raise
            report(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as interrupt:
            if ctx.params.get("debug"):
                raise
            _say("interrupted", "; the same command continues from there")
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train, version, mix and serve the expert z-vectors of one base model.",
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Declare the options of ``zfleet`` itself; ``_Group.invoke`` reads them."""


app.add_typer(lab.app, name="lab")
app.add_typer(bases.app, name="bases")
experts.app.command("carry")(carry_experts.carry)
experts.app.command("export")(export_experts.export)
experts.app.command("import")(import_experts.import_experts)
experts.app.command("mix")(expert_algebra.mix)
experts.app.command("negate")(expert_algebra.negate)
experts.app.command("scale")(expert_algebra.scale)
experts.app.command("interpolate")(expert_algebra.interpolate)
experts.app.command("interference")(interference.interference)
experts.app.command("promote")(promotion.promote)
experts.app.command("rollback")(promotion.rollback)
experts.app.command("protect")(promotion.protect)
experts.app.command("traffic")(promotion.traffic)
experts.app.command("fsck")(fsck.fsck)
experts.app.command("sign")(signatures.sign)
experts.app.command("verify")(signatures.verify)
experts.app.command("history")(history.history)
experts.app.command("watch")(watch.watch)
experts.app.command("lineage")(lineage.lineage)
experts.app.command("diff")(lineage.diff)
experts.app.command("card")(lineage.card)
app.add_typer(experts.app, name="experts")
app.add_typer(registry.app, name="registry")
app.command("decompose")(decompose.decompose)
app.command("train")(train.train)
app.command("compare")(experiment.compare)
app.command("ablate")(experiment.ablate)
app.command("samples")(samples.samples)
app.command("search")(search.search)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(evaluate.evaluate)
app.command("transfer")(transfer.transfer)
app.command("serve")(serve.serve)
app.add_typer(keys.app, name="keys")
app.command("submit")(submit.submit)
app.add_typer(jobs.app, name="jobs")
app.command("grade")(grade.grade)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def report(error: ZfleetError) -> None:
    """Print an error and its remedy to the error stream, with control characters escaped."""
    _say("error", f": {error.message}")
    if error.remedy:
        _say("remedy", f": {error.remedy}", style="bold green")


def _say(word: str, rest: str, style: str = "bold red") -> None:
    _print(Text.assemble((word, style), shown_lines(rest)))


def _print(text: Text) -> None:
    # soft_wrap keeps the message's own lines, so that a pipe or a search finds them whole.
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


class _Warnings(logging.Handler):
    """Prints warnings that no other handler takes, escaped. Python's own last resort would not escape them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        _print(shown_lines(self.format(record)))


def _resend_interrupt(dropped: sys.UnraisableHookArgs) -> None:
    """Send a Ctrl-C again that Python dropped because it arrived in a finalizer."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        timer = threading.Timer(_RESEND_SECONDS, signal.pthread_kill, (main_thread, signal.SIGINT))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(dropped)


def main() -> None:
    """Run the ``zfleet`` command."""
    sys.unraisablehook = _resend_interrupt
    logging.lastResort = _Warnings()
    try:
        app()
    except Exception as error:  # A bug, or --debug. The traceback may quote a completion, so it is escaped.
        _print(shown_lines("".join(traceback.format_exception(error)).rstrip("\n"), indent="", most=100_000))
        sys.exit(1)

"""The ``zfleet`` command: finds the command asked for, and turns errors into two lines and an exit code."""

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
    decompose,
    demo,
    doctor,
    experiment,
    experts,
    grade,
    import_expert,
    lab,
    samples,
    search,
    serve,
    train,
)
from zfleet_cli.untrusted import shown_lines

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by convention 128 + SIGINT."""

_MOMENT_SECONDS = 0.05


class _Group(TyperGroup):
    """Reports the errors that zfleet raises on purpose; any other is a bug and keeps its traceback."""

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
            _say("interrupted", "; the same command goes on where it stopped")
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
    """Read by ``_Group.invoke``."""


app.add_typer(lab.app, name="lab")
experts.app.command("import")(import_expert.import_expert)
app.add_typer(experts.app, name="experts")
app.command("decompose")(decompose.decompose)
app.command("train")(train.train)
app.command("compare")(experiment.compare)
app.command("ablate")(experiment.ablate)
app.command("samples")(samples.samples)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("grade")(grade.grade)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def report(error: ZfleetError) -> None:
    """Print what went wrong and what to do about it to the error stream; nothing in it reaches a terminal as such."""
    _say("error", f": {error.message}")
    if error.remedy:
        _say("remedy", f": {error.remedy}", style="bold green")


def _say(word: str, rest: str, style: str = "bold red") -> None:
    _print(Text.assemble((word, style), shown_lines(rest)))


def _print(text: Text) -> None:
    # soft_wrap: a message keeps its lines when it is piped into a file or a search.
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


class _Warnings(logging.Handler):
    """Prints the warnings that no other handler takes, escaped: Python's own would print them as they are."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        _print(shown_lines(self.format(record)))


def _deliver_again(lost: sys.UnraisableHookArgs) -> None:
    """Python drops a Ctrl-C that falls into a finalizer: send it once more, a moment later."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        again = threading.Timer(_MOMENT_SECONDS, signal.pthread_kill, (main_thread, signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """The entry point of the ``zfleet`` command."""
    sys.unraisablehook = _deliver_again
    logging.lastResort = _Warnings()
    try:
        app()
    except Exception as error:  # A bug, or --debug: its traceback may quote a completion too.
        _print(shown_lines("".join(traceback.format_exception(error)).rstrip("\n"), indent="", most=100_000))
        sys.exit(1)

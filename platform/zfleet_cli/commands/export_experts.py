"""``zfleet experts export``: write experts in the formats of other programs, or as a bundle for another registry."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from zfleet.errors import FormatError, SpecError
from zfleet_cli.options import BUNDLE_SUFFIX, Z_SUFFIX, AsJson, Registry
from zfleet_cli.output import print_fields


class Format(StrEnum):
    """What an expert can be written as."""

    LORA = "lora"
    MERGED = "merged"
    Z = "z"
    BUNDLE = "bundle"
    GGUF = "gguf"


class Dtype(StrEnum):
    """What weights can be stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


_OPTIONS = {
    Format.LORA: {"--base", "--rank", "--max-error", "--dtype"},
    Format.MERGED: {"--base", "--dtype"},
    Format.Z: set(),
    Format.BUNDLE: set(),
}
"""Options that have an effect on a format."""
_SUFFIXES = {Format.Z: Z_SUFFIX, Format.BUNDLE: BUNDLE_SUFFIX}


def export(
    references: Annotated[
        list[str],
        typer.Argument(help="An expert; for a bundle, any number of experts and dispatchers.", show_default=False),
    ],
    to: Annotated[Format, typer.Option("--to", help="The format.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", help="A new folder (lora, merged) or file (z, bundle).", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="lora, merged: the base.", show_default=False)
    ] = None,
    rank: Annotated[
        str | None, typer.Option(metavar="N", help="lora: of each matrix; by default `full`.", show_default=False)
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0, help="lora: the smallest ranks that miss this share of each matrix's norm at most, such as 0.001."
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="By default float32 (lora), or what the base has (merged).", show_default=False),
    ] = None,
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Write an expert as a LoRA adapter of PEFT, a Hugging Face checkpoint or a file, or several as a bundle.

    docs/formats.md says what each format keeps and loses. The factors that the expert was trained on must be on this
    machine for lora and merged. Parents of experts and of dispatchers go into a bundle by themselves.
    """
    if to is Format.GGUF:
        raise FormatError(
            "zfleet writes no GGUF files: how each architecture is stored in them is llama.cpp's to say",
            "export with --to merged, and run llama.cpp's convert_hf_to_gguf.py on that folder",
        )
    given = {"--base": model, "--rank": rank, "--max-error": max_error, "--dtype": dtype}
    _check(to, references, out, {name for name, value in given.items() if value is not None})
    from zfleet_cli import exporting
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    try:
        if to is Format.BUNDLE:
            done = exporting.as_bundle(experts, references, out)
        elif to is Format.Z:
            done = exporting.as_z(experts, references[0], out)
        else:
            source = exporting.Source.open(experts, references[0], str(model))
            if to is Format.LORA:
                done = source.as_lora(out, rank, max_error, dtype or Dtype.FLOAT32)
            else:
                done = source.as_merged(out, dtype)
    except OSError as error:
        raise FormatError(f"--out {out} cannot be written: {error}", "name a place that can be, with room") from error
    if as_json:
        typer.echo(json.dumps(asdict(done), indent=2))
        return
    print_fields({**done.summary, "out": str(out)}, ", ".join(done.versions))


def _check(to: Format, references: list[str], out: Path, given: set[str]) -> None:
    """Refuse options that the format does not have, before anything is opened."""
    if extra := sorted(given - _OPTIONS[to]):
        raise SpecError(f"{extra[0]} has no effect on --to {to}", "leave it out")
    if "--base" in _OPTIONS[to] and "--base" not in given:
        raise SpecError(f"--to {to} needs the base's weights", "name the base: --base MODEL, as in `base.model`")
    if {"--rank", "--max-error"} <= given:
        raise SpecError("--rank and --max-error both choose the rank", "give one of them")
    if to is not Format.BUNDLE and len(references) > 1:
        raise SpecError(f"{len(references)} experts are named, --to {to} takes one", "export each by itself")
    if (suffix := _SUFFIXES.get(to)) is not None and out.suffix != suffix:
        raise SpecError(f"--out {out} is no {suffix} file, by which `import` knows it", f"name it {out.stem}{suffix}")
    if out.exists():
        raise SpecError(f"--out {out} is there already", "name a new one, or remove it")

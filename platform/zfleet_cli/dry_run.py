"""What a job would find wrong with its tasks on its base, found without the base's weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from zfleet.config.specs import BaseSpec, EngineSpec

if TYPE_CHECKING:
    from zfleet.tasks.task import Task


def check_on_base(base: BaseSpec, engine: EngineSpec, tasks: Iterable[Task], recited: Sequence[Task] = ()) -> None:
    """See that prompts, templates and images suit a base that is a folder here, and say how many prompts fit.

    Of the lab base and of bases on the hub nothing is known before they are built or fetched.

    Args:
        base: The base.
        engine: What generates.
        tasks: What is learned.
        recited: Those of them whose reference answers are learned.

    Raises:
        BaseModelError: No such folder, or a family that is not supported.
        EngineError: The engine does not run this base.
        TaskError: Prompts that do not fit, images that the base cannot take, no chat template, or a
            reference answer that is missing or does not fit.
    """
    from transformers import AutoConfig

    from zfleet.models.base import base_name, context_of, load_tokenizer, local_folder
    from zfleet.models.families import check_family, check_no_images, sees
    from zfleet.models.fingerprint import read_config
    from zfleet.models.images import ImageReader
    from zfleet.rl.references import check_answered, check_references
    from zfleet.tasks.fit import fit_prompts

    for task in recited:
        check_answered(task)
    folder = local_folder(base.model)
    if folder is None or base.model == "lab":
        return
    written, name = read_config(folder), base.name or base_name(base.model)
    check_family(written, name)
    if engine.kind == "vllm":
        check_no_images(written, name)
    context = context_of(AutoConfig.from_pretrained(folder).get_text_config())
    tokenizer, reader = load_tokenizer(folder), ImageReader.open(folder) if sees(written) else None
    for task in tasks:
        report = fit_prompts(task, tokenizer, min(engine.max_length or context, context), reader)
        typer.echo(str(report), err=True)
        if any(task is one for one in recited):
            check_references(report.task, tokenizer, context, reader)

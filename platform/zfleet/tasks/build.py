"""Build the task that a spec names, from whichever source it has."""

from __future__ import annotations

from zfleet.config.task_specs import TaskSpec
from zfleet.tasks.datasets.load import load_dataset_task
from zfleet.tasks.jsonl import load_jsonl_task
from zfleet.tasks.task import Task


def build_task(spec: TaskSpec) -> Task:
    """Build the task that a spec names.

    Raises:
        TaskError: No lab task has this name, or the data cannot be used (file and line are named).
        SpecError: The reward cannot be built.
    """
    if spec.jsonl is not None:
        return load_jsonl_task(spec)
    if spec.dataset is not None:
        return load_dataset_task(spec)
    # Imported late: other tasks need neither the families of generated prompts nor the lab's corpus.
    if spec.generated is not None:
        from zfleet.tasks.generated.load import generated_task

        return generated_task(spec.generated, spec.template)
    assert spec.lab is not None
    from zfleet.tasks.lab import lab_task

    return lab_task(spec.lab, verbs=spec.verbs)

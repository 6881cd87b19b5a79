"""From a task in a spec to the task."""

from __future__ import annotations

from zfleet.config.task_specs import TaskSpec
from zfleet.tasks.datasets.load import load_dataset_task
from zfleet.tasks.jsonl import load_jsonl_task
from zfleet.tasks.task import Task


def build_task(spec: TaskSpec) -> Task:
    """The task a spec names.

    Raises:
        TaskError: No lab task of that name, or data that cannot be used (file and line named).
        SpecError: The reward cannot be built.
    """
    if spec.jsonl is not None:
        return load_jsonl_task(spec)
    if spec.dataset is not None:
        return load_dataset_task(spec)
    assert spec.lab is not None
    # The lab brings its corpus along, which a task of one's own does not need.
    from zfleet.tasks.lab import lab_task

    return lab_task(spec.lab, verbs=spec.verbs)

"""Put together what travels to the cluster: the resolved spec, the files that it names, and zfleet's code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import dump_spec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import TrainSpec
from zfleet.errors import SpecError
from zfleet_cluster.sent_code import CODE_VERSION, code_environment
from zfleet_jobs.code_version import code_version
from zfleet_jobs.submit.files import find_files
from zfleet_jobs.submit.names import BASE, KIND, PROJECT, RUN, SPEC_FILE, STOP_SECONDS
from zfleet_jobs.submit.places import BatchSpec, check_places, local_base


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be sent.

    Attributes:
        spec: The job, checked.
        files: {path in the job's folder: file of this machine}, without the spec.
        base: Name and fingerprint of the base if it is a folder that this machine has, too; otherwise empty.
        notes: Sentences for the user, about what the cluster must have itself.
    """

    spec: BatchSpec
    files: Mapping[str, Path]
    base: str
    notes: tuple[str, ...]

    @property
    def entrypoint(self) -> str:
        """The command that the job runs, in its folder."""
        # exec: signals and the exit code are those of the command, not those of a shell around it.
        return f"exec python -m zfleet_cli.on_cluster {self.spec.kind} {SPEC_FILE} --address auto"

    @property
    def metadata(self) -> dict[str, str]:
        """What the job server stores with the job, for everybody who reaches it."""
        base = {BASE: self.base} if self.base else {}
        return {KIND: self.spec.kind, RUN: _name(self.spec), CODE_VERSION: code_version()} | base

    @contextmanager
    def packed(self) -> Iterator[dict[str, Any]]:
        """Copy the job's folder together, and give the runtime environment that sends it.

        Raises:
            SpecError: A file cannot be read.
        """
        with TemporaryDirectory(prefix="zfleet-submit-") as name:
            folder = Path(name)
            for path, file in self.files.items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.copyfile(file, target)
                except OSError as error:
                    raise SpecError(f"{path} cannot be sent: {error.strerror}", "make it readable") from error
            (folder / SPEC_FILE).write_text(dump_spec(self.spec), encoding="utf-8")
            _write_requirements(folder)
            variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
            yield code_environment() | {"working_dir": name, "env_vars": variables}


def prepare(spec: BatchSpec) -> Submission:
    """Check a job as far as this machine can, and find what has to be sent with it.

    Raises:
        SpecError, TaskError, RegistryError, BaseModelError: As ``check_places``, ``local_base`` and ``find_files``.
        SpecError: A file of the job has the name of the spec that is sent.
    """
    check_places(spec)
    base = local_base(spec.base)
    files = find_files(spec)
    if SPEC_FILE in files.sent:
        raise SpecError(f"a file of the job is named {SPEC_FILE}, as the spec that is sent", "give it another name")
    notes = list(files.notes)
    if Path(spec.base.model).is_absolute():
        known = f" ({base} on this machine)" if base else ""
        notes.insert(0, f"base.model is {spec.base.model}{known}: the cluster must have it at this path")
    return Submission(spec, files.sent, base, tuple(notes))


def _name(spec: BatchSpec) -> str:
    if isinstance(spec, TrainSpec):
        return spec.run
    return spec.name if isinstance(spec, SearchSpec | EvaluateSpec | CalibrateSpec) else ", ".join(spec.tasks)


def _write_requirements(folder: Path) -> None:
    """Write zfleet's version and requirements where Python looks for those of an installed package."""
    zfleet = distribution(PROJECT)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {PROJECT}",
        f"Version: {zfleet.version}",
        f"Requires-Python: {zfleet.metadata['Requires-Python']}",
        *(f"Requires-Dist: {requirement}" for requirement in zfleet.requires or ()),
    ]
    place = folder / f"{PROJECT}-{zfleet.version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")

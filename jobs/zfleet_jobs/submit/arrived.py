"""What a submitted job does on the cluster before its command begins."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from zfleet.config.load import load_job
from zfleet.errors import BaseModelError
from zfleet.models.fetch import fetch
from zfleet.models.known import KNOWN_BASES
from zfleet_cluster.sent_code import job_metadata
from zfleet_jobs.submit.names import BASE, SPEC_FILE
from zfleet_jobs.submit.places import base_remedy


def prepare_base(folder: Path) -> None:
    """Check that a base that is given by an absolute path is on this node, and fetch one that is given by its name.

    By name it is fetched here, because the cluster need not have the `zfleet` command.

    Args:
        folder: The job's folder.

    Raises:
        BaseModelError: The base is not here: names it as the machine that submitted the job knows it. Or it cannot be
            fetched.
    """
    job = load_job(folder / SPEC_FILE)
    model = job.base.model
    if (known := KNOWN_BASES.get(model)) is not None and not known.folder.is_dir():
        print(f"fetching {known.title}, licence {known.licence}, {known.megabytes} MB", file=sys.stderr)
        fetch(known)
    if Path(model).is_absolute() and not Path(model).exists():
        origin = f" ({base} on the machine that submitted the job)" if (base := job_metadata().get(BASE)) else ""
        raise BaseModelError(
            f"base.model is {model!r}{origin}, which is not on {socket.gethostname()}, the node of the job's driver",
            base_remedy(job.kind),
        )

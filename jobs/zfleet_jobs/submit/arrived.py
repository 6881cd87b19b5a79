"""What a submitted job checks on the cluster before its command begins."""

from __future__ import annotations

import socket
from pathlib import Path

from zfleet.config.load import load_job
from zfleet.errors import BaseModelError
from zfleet_cluster.sent_code import job_metadata
from zfleet_jobs.submit.names import BASE, SPEC_FILE
from zfleet_jobs.submit.places import base_remedy


def check_base(folder: Path) -> None:
    """Check that a base that is given by an absolute path is on this node.

    Args:
        folder: The job's folder.

    Raises:
        BaseModelError: Names the base, as the machine that submitted the job knows it.
    """
    job = load_job(folder / SPEC_FILE)
    model = job.base.model
    if Path(model).is_absolute() and not Path(model).exists():
        known = f" ({base} on the machine that submitted the job)" if (base := job_metadata().get(BASE)) else ""
        raise BaseModelError(
            f"base.model is {model!r}{known}, which is not on {socket.gethostname()}, the node of the job's driver",
            base_remedy(job.kind),
        )

"""What a submitted job runs: the ``zfleet`` command, if the cluster has what the job needs."""

from __future__ import annotations

import sys
from pathlib import Path

from zfleet_jobs.submit.requirements import check_requirements


def _run() -> None:
    check_requirements()
    # Imported late: before the check, an import may fail.
    from zfleet.errors import ZfleetError
    from zfleet_cli.main import main, report
    from zfleet_jobs.submit.arrived import prepare_base

    try:
        prepare_base(Path.cwd())
    except ZfleetError as error:
        report(error)
        sys.exit(1)
    main()


if __name__ == "__main__":
    _run()

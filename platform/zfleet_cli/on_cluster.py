"""What a submitted job runs: the ``zfleet`` command, if the cluster's Python has all that it needs."""

from __future__ import annotations

from zfleet_jobs.submit.requirements import check_requirements

if __name__ == "__main__":
    check_requirements()
    # Imported late: before the check, an import may fail.
    from zfleet_cli.main import main

    main()

"""zfleet's own code, sent to a cluster that has zfleet's dependencies but not zfleet itself.

The packages are sent as folders: that works however zfleet is installed, in editable mode too. Of a wheel, Ray would
have pip install all dependencies a second time on every node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

CODE_VERSION = "zfleet.code"
"""The key of a submitted job's metadata with the version of the code that was sent."""

PACKAGES = ("zfleet", "zfleet_cluster", "zfleet_registry", "zfleet_jobs", "zfleet_serve", "zfleet_cli")
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's job server sets it for the process of a submitted job: its runtime environment and its metadata, as JSON."""


def code_environment() -> dict[str, Any]:
    """Return the part of a Ray runtime environment that sends zfleet's packages.

    In a submitted job that brought its code it is empty: all processes of the job have the code already.
    """
    if "py_modules" in _job().get("runtime_env", {}):
        return {}
    specs = (find_spec(name) for name in PACKAGES)
    folders = [folder for spec in specs if spec is not None for folder in spec.submodule_search_locations or ()]
    # Compiled files would change the digest by which Ray knows what a cluster has already.
    return {"py_modules": folders, "excludes": ["__pycache__"]}


def job_metadata() -> Mapping[str, str]:
    """Return the metadata of the submitted job that this process runs; empty if it runs none."""
    metadata: Mapping[str, str] = _job().get("metadata", {})
    return metadata


def _job() -> Mapping[str, Any]:
    job: Mapping[str, Any] = json.loads(os.environ.get(_JOB_VARIABLE, "{}"))
    return job

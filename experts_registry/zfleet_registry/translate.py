"""Turn the errors of MLflow and its libraries into ours: one line, without secrets, with a remedy."""

from __future__ import annotations

import re
import sys
from typing import Literal

from zfleet.errors import AccessDenied, RegistryError, RegistryUnreachable
from zfleet_registry.address import address_of, redact
from zfleet_registry.credentials import user_name

Right = Literal["read", "write", "promote", "manage"]
"""What a person may do with an expert; docs/registry.md says which permissions of MLflow each is."""

NOT_MLFLOW = "it does not answer as MLflow does"
_PERMISSIONS: dict[Right, str] = {
    "read": "READ on the expert and on the experiments of its runs",
    "write": "EDIT on the expert and on the experiment of the run",
    "promote": "EDIT on the expert and on its log, log~BASE.NAME",
    "manage": "MANAGE on the expert and on its log, log~BASE.NAME",
}
_CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN, for a proxy), "
    "or write user and password into ~/.mlflow/credentials"
)
_STATUS = {"PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401}
_FAILED = re.compile(r"API request to endpoint (\S+) failed with error code (\d+)")
_GATHERED = re.compile(r"\b(40[13]) Client Error")
_INVALID_HOST = "Invalid Host header"
"""What MLflow answers with status 403 if it was called by a name that it does not know."""
_NO_JSON = "response body was not in a valid JSON format"


def library_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the errors that MLflow and the libraries below it raise, and ``more``; boto's only if it was imported."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    errors: list[type[Exception]] = [*more, MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException]
    if "botocore" in sys.modules:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        errors += [Boto3Error, BotoCoreError, ClientError]
    return tuple(errors)


def translated(error: Exception, doing: str, right: Right, uri: str) -> RegistryError:
    """Return our error for a library's.

    Args:
        error: One of ``library_errors``.
        doing: What was being done.
        right: What a person must be allowed to do for it.
        uri: The registry's URI, whose secrets are left out.
    """
    import requests

    address, status = address_of(uri), status_of(error)
    if status in (401, 403):
        if _INVALID_HOST in str(error):
            host = address.partition("://")[2].partition("/")[0]
            return RegistryError(
                f"the registry {address} refuses its own name, {host}",
                f"start the server with MLFLOW_SERVER_ALLOWED_HOSTS={host}, or call it by a name that it knows",
            )
        return denied(status, doing, right, address)
    if (failed := _FAILED.match(str(error))) and 400 <= int(failed[2]) < 500:
        return _not_mlflow(f"{doing}: {failed[1]} gave status {failed[2]} at {address}, where MLflow answers")
    if _NO_JSON in str(error):
        return _not_mlflow(f"{doing}: {address} gave a page instead of data")
    if "too many 500 error responses" in str(error):
        remedy = "its log says why: a full disk, for example, or a database or a bucket that does not answer it"
        return RegistryError(f"{doing}: the server {address} failed (status 500)", remedy)
    text = reason_of(error, uri)
    silent = (
        isinstance(error, requests.ConnectionError | requests.Timeout)
        or getattr(error, "error_code", None) == "TEMPORARILY_UNAVAILABLE"
        or str(error).startswith("API request to")
    )
    if silent:
        message = f"{doing}: the registry {address} does not answer: {text}"
        return RegistryUnreachable(message, "try again", system_reason(error) or "it does not answer")
    return RegistryError(f"{doing}: the registry {address} refused: {text}", "check the request and the permissions")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status behind an error; None if there is none."""
    code = getattr(error, "error_code", None)
    if code in _STATUS:
        return _STATUS[code]
    if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
        return int(status)
    # MLflow gathers the errors of a download in the text of one.
    gathered = _GATHERED.search(str(error))
    return int(gathered[1]) if gathered else None


def denied(status: int, doing: str, right: Right, address: str) -> AccessDenied:
    """Return the error of a status 401 (who are you?) or 403 (you may not)."""
    name = user_name()
    user = f"user {name!r}" if name else "this user"
    if status == 401:
        return AccessDenied(f"{doing}: the registry {address} does not accept {user}", _CREDENTIALS, right)
    return AccessDenied(
        f"{doing}: {user} may not {right} in the registry {address}",
        f"ask whoever manages the expert, or an administrator of the server, for the right to {right}: "
        f"{_PERMISSIONS[right]}",
        right,
    )


def unreachable(uri: str, reason: str, public: str = "") -> RegistryUnreachable:
    """Return the error of a registry that does not answer.

    Args:
        uri: Its URI.
        reason: Why, for the person at the machine.
        public: Why, for the clients of a service.
    """
    return RegistryUnreachable(
        f"registry {address_of(uri)} does not answer: {reason}",
        "start it, check the URI and the network, or omit the URI to use a local registry",
        public or "it does not answer",
    )


def reason_of(error: Exception, uri: str) -> str:
    """Return the useful part of a library's message."""
    text = redact(str(error), uri).strip() or type(error).__name__
    return system_reason(error) or text.splitlines()[0][:300]


def system_reason(error: Exception) -> str:
    """Return the operating system's words in a library's message, without address and path; empty if there are none."""
    if system := re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error)):
        return system.group(1).strip(" :")
    return "timed out" if "timed out" in str(error) else ""


def _not_mlflow(message: str) -> RegistryUnreachable:
    remedy = "check the URI: a proxy that wants a login, or another program, answers there"
    return RegistryUnreachable(message, remedy, NOT_MLFLOW)

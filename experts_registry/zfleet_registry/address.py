"""Registry URIs: check them, and show them without their secrets."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from zfleet.errors import RegistryError

SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql")
SQLITE = "sqlite"
_SQLITE_PREFIX = "sqlite:///"
_SECRET_WORDS = ("pass", "token", "secret")
"""A part of a query is secret if its key has one of these."""
_REMEDY = "give http(s)://..., postgresql://..., mysql://..., sqlite:///file, or nothing for a local registry"


def kind_of(uri: str) -> str:
    """Return the scheme without its driver: ``postgresql`` for ``postgresql+psycopg``."""
    return uri.partition("://")[0].partition("+")[0].lower()


def address_of(uri: str) -> str:
    """Return the URI without user, password and query, for messages and logs.

    If the parts of the URI are ambiguous, only the scheme is shown: what looks like a path may be the rest of a
    password that was not percent-encoded.
    """
    if kind_of(uri) == SQLITE or ("://" not in uri and "@" not in uri):
        return uri.partition("?")[0]
    parts = _parts(uri)
    if parts is None:
        return f"{uri.partition('://')[0]}://***" if "://" in uri else "***"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{'' if parts.port is None else f':{parts.port}'}{parts.path}"


def redact(text: str, uri: str) -> str:
    """Remove the secrets of ``uri`` from a library's text."""
    text = text.replace(uri, address_of(uri))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def carries_secret(uri: str) -> bool:
    """Return whether a URI contains a password, a token or a secret key. A user's name alone is none for a database.

    A URI whose parts are ambiguous may contain one.
    """
    if kind_of(uri) == SQLITE:
        return bool(_secret_values(uri.partition("?")[2]))
    parts = _parts(uri)
    if parts is None:
        return kind_of(uri) in (*SERVERS, *DATABASES)
    token = kind_of(uri) in SERVERS and bool(parts.username)
    return bool(parts.password) or token or bool(_secret_values(parts.query))


def check_uri(uri: str) -> None:
    """Refuse a URI that cannot be a registry's.

    Raises:
        RegistryError: The scheme is unknown or refused, or the URI is ambiguous.
    """
    kind = kind_of(uri)
    if "://" not in uri or kind == "file":
        raise RegistryError(
            f"registry URI {address_of(uri)!r} is a folder: MLflow keeps registries in a database", _REMEDY
        )
    if kind not in (*SERVERS, *DATABASES, SQLITE):
        raise RegistryError(f"registry URI {address_of(uri)!r} has the unknown scheme {kind!r}", _REMEDY)
    if kind != SQLITE and address_of(uri).endswith("***"):
        raise RegistryError(
            f"registry URI {address_of(uri)} cannot be read",
            "percent-encode special characters in the user and the password (@ is %40, / is %2F)",
        )


def sqlite_uri(file: Path) -> str:
    """Return the URI of a database file. It is absolute, so that the current directory may change.

    Raises:
        RegistryError: The path has characters that such a URI cannot have.
    """
    path = str(file.expanduser().absolute())
    if bad := set("?#%") & set(path):
        raise RegistryError(
            f"registry path {path!r} contains {''.join(sorted(bad))!r}", "choose a path without ?, # and %"
        )
    return f"{_SQLITE_PREFIX}{path}"


def sqlite_file(uri: str) -> Path:
    """Return the file of a sqlite URI.

    Raises:
        RegistryError: The URI names no file. An in-memory database would be empty in every process.
    """
    path = uri.partition(":///")[2]
    if not path or path == ":memory:" or "?" in path:
        raise RegistryError(f"registry URI {address_of(uri)!r} names no plain file", "give sqlite:///folder/mlflow.db")
    return Path(path)


def _parts(uri: str) -> SplitResult | None:
    """Split a URI; None if its parts are ambiguous."""
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises if it is no number
    except ValueError:
        return None
    return parts if parts.scheme and "@" not in parts.path + parts.query + parts.fragment else None


def _secrets(uri: str) -> set[str]:
    parts = _parts(uri)
    if parts is None:
        user = uri.partition("://")[2].rpartition("@")[0]
        return {one for one in (user, user.partition(":")[2], *_secret_values(uri.partition("?")[2])) if one}
    # Some servers take a token as a user without a password.
    secrets = {parts.password or parts.username or ""}
    secrets |= _secret_values(parts.query)
    return {form for secret in secrets for form in (secret, unquote(secret)) if form}


def _secret_values(query: str) -> set[str]:
    return {value for key, value in parse_qsl(query) if any(word in key for word in _SECRET_WORDS)}

"""Refuse to register what looks like a secret: everyone who can read a version reads its provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from zfleet.errors import RegistryError

_FORMS = {
    "a password in a URL": re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@*]+@", re.IGNORECASE),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a token of Hugging Face": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a token of GitHub": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an access key of AWS": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a bearer token": re.compile(r"\bBearer [A-Za-z0-9._~+/-]{16,}"),
}
_NAMES = re.compile(r"(^|[_-])(password|passwd|secret|api_?key|access_key|auth_token|access_token|credentials?)$", re.I)
"""Keys of a spec whose values are secrets. ``max_tokens`` is none."""


def refuse_secrets(texts: Mapping[str, str]) -> None:
    """Refuse texts that look like a secret, or JSON with a key that names one.

    Args:
        texts: {field: its text or JSON}.

    Raises:
        RegistryError: Names the field and the kind of secret, never the secret.
    """
    for name, text in texts.items():
        kinds = [kind for kind, form in _FORMS.items() if form.search(text)]
        kinds += [f"a value of {key!r}" for key in _secret_keys(text)]
        if kinds:
            raise RegistryError(
                f"{name} contains {kinds[0]}",
                "take it out and give it by an environment variable; if it was in use, replace it",
            )


def _secret_keys(text: str) -> Iterator[str]:
    try:
        data = json.loads(text)
    except ValueError:
        return
    yield from _named(data)


def _named(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            if _NAMES.search(key) and isinstance(value, str) and value:
                yield key
            yield from _named(value)
    elif isinstance(data, list):
        for value in data:
            yield from _named(value)

"""A service is open to other machines only on purpose."""

from __future__ import annotations

import pytest

from zfleet.config.load import parse_spec
from zfleet.config.serve import ServeSpec
from zfleet.errors import SpecError

TLS = {"cert": "cert.pem", "key": "key.pem"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_alone_needs_neither_keys_nor_tls(host: str) -> None:
    assert parse_spec({"host": host}, ServeSpec).keys is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "serve.example.org"])
def test_another_address_needs_keys_and_tls_or_an_explicit_word(host: str) -> None:
    with pytest.raises(SpecError, match="keys and tls are not set"):
        parse_spec({"host": host}, ServeSpec)
    with pytest.raises(SpecError, match="tls is not set"):
        parse_spec({"host": host, "keys": "keys.db"}, ServeSpec)
    parse_spec({"host": host, "keys": "keys.db", "tls": TLS}, ServeSpec)
    parse_spec({"host": host, "insecure": True}, ServeSpec)
    parse_spec({"host": host, "keys": "keys.db", "insecure": True}, ServeSpec)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"insecure": True}, "insecure has no effect"),
        ({"host": "0.0.0.0", "keys": "keys.db", "tls": TLS, "insecure": True}, "insecure has no effect"),
        ({"redis": "redis://host:6379"}, "redis has no effect"),
        ({"keys": "keys.db", "gateways": 2}, "redis://host:port"),
        ({"keys": "keys.db", "redis": "host:6379"}, "redis"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"tls": {"cert": "cert.pem"}}, "tls.key"),
    ],
)
def test_keys_without_effect_and_keys_that_are_missing_are_refused(spec: dict[str, object], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        parse_spec(spec, ServeSpec)

"""The keys of a serve spec about access: who may ask, how it is encrypted, and how much may wait."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import Field, model_validator

from zfleet.config.spec import Spec


class TlsSpec(Spec):
    """A certificate, with which the service speaks HTTPS."""

    cert: str = Field(description="PEM file with the certificate, and those between it and its authority")
    key: str = Field(description="PEM file with its private key, without a password")


class AccessSpec(Spec):
    """Who may reach a service."""

    host: str = Field("127.0.0.1", description="the address to listen on; another one needs keys and tls, or insecure")
    port: int = Field(8000, ge=1, le=65535)
    gateways: int = Field(1, ge=1, description="processes that speak HTTP, on one port of the head node")
    keys: str | None = Field(
        None,
        description="where API keys are, which requests then need: a sqlite file or `postgresql://...`; "
        "none: requests need no key",
    )
    tls: TlsSpec | None = Field(None, description="certificate and key for HTTPS; none: HTTP")
    insecure: bool = Field(False, description="answer other machines although keys or tls are missing")
    redis: str | None = Field(
        None, pattern=r"^rediss?://", description="where several gateways count the rates of keys: `redis://host:port`"
    )
    deadline_seconds: float | None = Field(None, gt=0, description="how long a request may take; none: without end")
    max_waiting: int = Field(2048, ge=1, description="requests that wait for an engine, in each gateway")
    max_waiting_per_client: int = Field(1024, ge=1, description="those of one key, or without keys of one address")

    @model_validator(mode="after")
    def _not_open_by_accident(self) -> Self:
        lacking = [name for name in ("keys", "tls") if getattr(self, name) is None]
        if is_loopback(self.host):
            if self.insecure:
                raise ValueError(f"insecure has no effect at host {self.host!r}, which is this machine alone: omit it")
        elif lacking and not self.insecure:
            raise ValueError(
                f"host {self.host!r} answers other machines, and {' and '.join(lacking)} "
                f"{'is' if len(lacking) == 1 else 'are'} not set: set keys and tls, or write `insecure: true` if only "
                "people that you trust reach it, through a network that nobody reads"
            )
        elif self.insecure and not lacking:
            raise ValueError("insecure has no effect beside keys and tls: omit it")
        return self

    @model_validator(mode="after")
    def _rates_counted_together(self) -> Self:
        if self.redis is not None and self.keys is None:
            raise ValueError("redis has no effect without keys: set keys, or omit it")
        if self.keys is not None and self.gateways > 1 and self.redis is None:
            raise ValueError(
                f"gateways is {self.gateways}, and each would count the rates of keys for itself: set redis to "
                "`redis://host:port`, or gateways to 1"
            )
        return self


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

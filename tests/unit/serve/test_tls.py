"""HTTPS on a socket."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zfleet.config.access import TlsSpec
from zfleet.errors import ServeError
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.server import HttpServer, check_tls, listening_socket
from zfleet_serve.testing import Stage

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsSpec:
    """A certificate of this machine's address, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return TlsSpec(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))


async def test_a_service_with_a_certificate_speaks_https_alone(stage: Stage, tls: TlsSpec) -> None:
    probe = listening_socket(HOST, 0)
    port = probe.getsockname()[1]
    probe.close()
    server = HttpServer(create_app(stage.service), HOST, port, tls)
    await server.start()
    try:
        trusted = ssl.create_default_context(cafile=tls.cert)
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
            answer = await client.get(f"https://{HOST}:{port}/v1/models")
            assert answer.json()["data"][0]["id"] == "fake"
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://{HOST}:{port}/v1/models")
    finally:
        await server.stop(stage.engine.close)


def test_a_certificate_that_cannot_be_used_is_named(tls: TlsSpec, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    check_tls(tls)
    for cert, key in ((tls.cert, "nowhere.pem"), (str(tmp_path / "empty.pem"), tls.key), (tls.key, tls.cert)):
        with pytest.raises(ServeError, match=r"tls\.cert"):
            check_tls(TlsSpec(cert=cert, key=key))

"""Versions that are signed, unsigned, signed by others or changed afterwards: what loads, promotes and travels."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet.adapt.document import DispatcherDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.gate import GateSpec
from zfleet.config.load import parse_spec
from zfleet.config.public_keys import read_public_keys
from zfleet.config.serve import ServeSpec
from zfleet.config.spec import Spec
from zfleet.errors import RegistryError, SpecError, UntrustedVersion
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.bundles import open_bundle, register_bundle, write_bundle
from zfleet_registry.signatures import Signer, sign_version, trusted_key, verify_version
from zfleet_registry.testing import write_certificate, write_key

SLUG = "lab-1a2b3c4d"
MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


def _text(file: Path) -> str:
    return file.read_text()


def _strict(root: Path, *files: Path) -> ExpertRegistry:
    """Open a registry that loads signed versions alone."""
    return ExpertRegistry(root=root, reading=True, require_signed_by=[file.read_text() for file in files])


def test_only_what_a_trusted_key_signed_is_loaded(registry: ExpertRegistry, root: Path, put: Put, keys: Path) -> None:
    signed, unsigned = put(seed=1), put(seed=2)
    identity = sign_version(registry, signed, Signer(keys / "release.key"))
    strict = _strict(root, keys / "stranger.pub", keys / "release.pub")
    assert strict.load(signed).digest == signed.z_digest
    with pytest.raises(UntrustedVersion, match=r"math/2 is not signed; it must be signed by key \w+ or key") as refused:
        strict.load(unsigned)
    assert f"zfleet experts sign {unsigned.qualified}" in refused.value.remedy
    with pytest.raises(UntrustedVersion, match=r"of 1 signatures none is: .*Key mismatch"):
        _strict(root, keys / "stranger.pub").load(signed)
    assert registry.load(unsigned).digest == unsigned.z_digest, "nothing is required here"
    # Another key may sign, too; and the log says who did.
    sign_version(registry, signed, Signer(keys / "stranger.key"))
    assert _strict(root, keys / "stranger.pub").load(signed).digest == signed.z_digest
    assert strict.load(signed).digest == signed.z_digest
    newest = registry.log(SLUG, "math").entry(3)
    assert newest is not None
    assert (newest.action.what, newest.action.version, newest.action.data) == ("sign", 1, {"key": identity})


def test_an_authority_vouches_for_the_certificates_that_it_issued(
    registry: ExpertRegistry, root: Path, put: Put, keys: Path
) -> None:
    version, other = put(seed=1), put(seed=2)
    sign_version(registry, version, Signer(keys / "release.key", keys / "release.crt", (keys / "authority.crt",)))
    trusted = [trusted_key(_text(keys / "authority.crt"))]
    assert verify_version(registry.files(version), trusted).signed_by == "CN=release"
    assert _strict(root, keys / "authority.crt").load(version).digest == version.z_digest
    # A certificate of the same name that somebody else issued, and a key without any certificate.
    stranger = write_key(keys, "forger")
    write_certificate(keys, "forger", stranger, ("authority", stranger))
    sign_version(registry, other, Signer(keys / "forger.key", keys / "forger.crt"))
    sign_version(registry, other, Signer(keys / "stranger.key"))
    with pytest.raises(UntrustedVersion, match="of 2 signatures none is"):
        verify_version(registry.files(other), trusted)
    with pytest.raises(RegistryError, match=r"cannot sign: .*does not match"):
        sign_version(registry, other, Signer(keys / "stranger.key", keys / "release.crt"))


def test_a_change_after_the_signature_is_refused(registry: ExpertRegistry, root: Path, put: Put, keys: Path) -> None:
    version = put()
    sign_version(registry, version, Signer(keys / "release.key"))
    strict = _strict(root, keys / "release.pub")
    (artifact,) = root.rglob(version.artifact)
    card, (signature,) = artifact.parent / "card.md", list((artifact.parent / "signatures").iterdir())
    whole, signed = card.read_bytes(), signature.read_bytes()
    card.write_bytes(whole + b" ")
    with pytest.raises(UntrustedVersion, match=r"not as they were signed: card\.md"):
        strict.load(version)
    card.unlink()
    with pytest.raises(UntrustedVersion, match=r"not as they were signed: card\.md"):
        strict.load(version)
    card.write_bytes(whole)
    for forged in (b"", b"[]", b"{", b"\xff", _changed(signed, lambda statement: statement.update(predicate={}))):
        signature.write_bytes(forged)
        with pytest.raises(UntrustedVersion, match="none is"):
            strict.load(version)
    signature.write_bytes(signed)
    assert strict.load(version).digest == version.z_digest


def test_a_signature_does_not_go_to_another_expert_or_another_file(
    registry: ExpertRegistry, root: Path, put: Put, keys: Path
) -> None:
    math, code = put("math", 1), put("code", 2)
    sign_version(registry, math, Signer(keys / "release.key"))
    strict = _strict(root, keys / "release.pub")
    # Tags that name the signed files as those of another expert: whole and signed, and yet not `code`.
    stolen = replace(math, name="code")
    assert registry.load(stolen).digest == math.z_digest
    with pytest.raises(UntrustedVersion, match=r"the artifact of .*code/1 is of lab-1a2b3c4d\.math"):
        strict.load(stolen)
    (signed,), (other,) = root.rglob(math.artifact), root.rglob(code.artifact)
    shutil.copytree(signed.parent / "signatures", other.parent / "signatures")
    with pytest.raises(UntrustedVersion, match=r"not as they were signed: card\.md, z\.safetensors"):
        strict.load(code)


def test_keys_that_cannot_be_used_are_refused_and_not_repeated(
    registry: ExpertRegistry, put: Put, keys: Path, tmp_path: Path
) -> None:
    version = put()
    secret = _text(keys / "release.key")
    write_key(keys, "locked", password="sesame-4711")
    for signer in (
        Signer(keys / "release.pub"),
        Signer(keys / "locked.key"),
        Signer(keys / "locked.key", password="wrong"),
        Signer(keys / "none.key"),
        Signer(keys / "locked.key", keys / "release.crt", password="sesame-4711"),
    ):
        with pytest.raises(RegistryError) as refused:
            sign_version(registry, version, signer)
        assert refused.value.remedy
    sign_version(registry, version, Signer(keys / "locked.key", password="sesame-4711"))
    assert "sesame" not in repr(Signer(keys / "locked.key", password="sesame-4711"))
    with pytest.raises(SpecError, match="has a private key"):
        read_public_keys([str(keys / "release.key")])
    with pytest.raises(SpecError, match="cannot be read"):
        read_public_keys([str(keys / "none.pub")])
    specs: dict[type[Spec], dict[str, Any]] = {
        ServeSpec: {"require_signed_by": [secret]},
        GateSpec: {"tasks": ["a"], "signed_by": [secret]},
    }
    for kind, spec in specs.items():
        with pytest.raises(SpecError, match="keep it secret") as error:
            parse_spec(spec, kind)
        assert secret.splitlines()[1] not in str(error.value)
    for text in ("", "no key", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(RegistryError, match="no public key"):
            trusted_key(text)


def test_a_registry_that_demands_signatures_does_not_open_without_the_library(
    root: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(RegistryError, match="not installed: model_signing") as refused:
        _strict(root, keys / "release.pub")
    assert refused.value.remedy == "pip install 'zfleet[signing]'"


def test_a_bundle_carries_signatures(
    registry: ExpertRegistry, put: Put, make_z: MakeZ, database: Path, keys: Path, tmp_path: Path
) -> None:
    expert, unsigned = put("math", 1), put("code", 2)
    document = {
        "base": make_z().base,
        "factors": make_z().factors,
        "experts": {"math/1": expert.z_digest},
        "routes": {"sum": {"math/1": 1.0}},
        "steps": [{"kind": "classifier", "asks": "math/1", "question": "{prompt}?"}],
    }
    dispatcher = StoredDispatcher(DispatcherDocument.model_validate(document))
    facts = Provenance.of_dispatcher(dispatcher, spec="{}", code_version="1", metrics={})
    router = registry.register("router", dispatcher, facts, base_name="lab")
    for version in (expert, router):
        sign_version(registry, version, Signer(keys / "release.key"))
    write_bundle(registry, [router, unsigned], tmp_path / "air.zip")
    for place, has_math in (("empty", False), ("other", True)):
        folder = tmp_path / place
        folder.mkdir()
        shutil.copy(database, folder)
        there = ExpertRegistry(root=folder)
        if has_math:
            there.register("math", make_z(9), Provenance.of(make_z(9)), base_name="lab")
        with open_bundle(tmp_path / "air.zip") as bundle:
            register_bundle(there, bundle)
        strict = _strict(folder, keys / "release.pub")
        here = strict.resolve("math", SLUG)
        assert strict.load(here).digest == expert.z_digest
        assert here.provenance.imported_from.startswith(f"{expert.qualified} of air.zip")
        with pytest.raises(UntrustedVersion, match="is not signed"):
            strict.load(strict.resolve("code", SLUG))
        arrived = strict.resolve("router", SLUG)
        if has_math:
            with pytest.raises(UntrustedVersion, match="is not signed"):
                strict.load_dispatcher(arrived)
        else:
            assert strict.load_dispatcher(arrived).digest == dispatcher.digest


def test_the_commands(registry: ExpertRegistry, put: Put, root: Path, keys: Path, tmp_path: Path) -> None:
    put()
    write_key(keys, "locked", password="sesame-4711")

    def call(*arguments: object, code: int = 0, given: str | None = None) -> str:
        line = ["experts", *map(str, arguments), "--registry", f"sqlite:///{root / 'mlflow.db'}"]
        done = CliRunner().invoke(app, line, input=given)
        assert done.exit_code == code, done.output
        return done.stderr if code else done.stdout

    assert "is not signed" in call("verify", "math/1", "--public-key", keys / "release.pub", code=1)
    signed = call("sign", "math/1", "--key", keys / "release.key")
    assert signed.startswith("lab-1a2b3c4d.math/1: signed by key ")
    done = json.loads(call("verify", "math", "--public-key", keys / "release.pub", "--json"))
    assert done["signed_by"] == signed.split(": signed by ")[1].strip()
    assert "Key mismatch" in call("verify", "math", "--public-key", keys / "stranger.pub", code=1)
    assert "has a private key" in call("verify", "math", "--public-key", keys / "release.key", code=1)
    locked = json.loads(call("sign", "math", "--key", keys / "locked.key", "--json", given="sesame-4711\n"))
    assert locked["version"] == "lab-1a2b3c4d.math/1"
    assert "another one" in call("sign", "math", "--key", keys / "locked.key", code=1, given="shut\n")
    gate = tmp_path / "gate.yaml"
    gate.write_text(f"tasks: [math]\nsigned_by: [{keys / 'release.pub'}]\n")
    call("protect", "math", "--gate", gate)
    stored = registry.log(SLUG, "math").newest()
    assert stored is not None
    assert stored.action.data["signed_by"] == [_text(keys / "release.pub")]


def _changed(signature: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Change the statement of a signature."""
    bundle = json.loads(signature)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(bundle).encode()

"""Promotions that pass their gate, fail it and are forced; what undoes them; and the history of all that."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet.config.gate import GateSpec
from zfleet.config.load import parse_spec
from zfleet.errors import ExpertNotFound, RegistryError, SpecError
from zfleet.evaluate.evidence import Evidence, TaskEvidence
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_cli.output import print_rows
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.log import Entry, verify
from zfleet_registry.promotion import (
    Decision,
    Traffic,
    judge,
    promote,
    protect,
    rollback,
    set_traffic,
    traffic_of,
    unprotect,
)
from zfleet_registry.signatures import Signer, sign_version, trusted_key

Put = Callable[..., ExpertVersion]
MakeZ = Callable[..., ZVector]
SLUG = "lab-1a2b3c4d"
GATE = GateSpec.model_validate({"tasks": ["math"], "gain": 2.0, "guard": {"tasks": ["code"], "loss": 1.0}})


def measured(low: float, mean: float, slower: float | None = 1.0) -> TaskEvidence:
    share = Estimate(0.5, 0.4, 0.6)
    return TaskEvidence(100, "d" * 64, share, share, Estimate(mean, low, 2 * mean - low), slower)


def shows(candidate: ExpertVersion, present: ExpertVersion | None, low: float, guard: float = 0.0) -> Evidence:
    digest = "" if present is None else present.z_digest
    tasks = {"math": measured(low, low + 0.05), "code": measured(guard, guard + 0.01)}
    return Evidence("nightly", "run", "0.1.0", "torch", candidate.z_digest, digest, tasks)


def passed(decision: Decision) -> dict[str, bool]:
    return {check.check: check.passed for check in decision.checks}


def test_the_judge_compares_the_lower_ends(put: Put) -> None:
    version = put()
    assert passed(judge(GATE, shows(version, None, 0.02, -0.01), "ann")) == {
        "gain on math": True,
        "guard on code": True,
    }
    assert passed(judge(GATE, shows(version, None, 0.019, -0.011), "ann")) == {
        "gain on math": False,
        "guard on code": False,
    }
    strict = GATE.model_copy(update={"latency": 1.2, "approvers": ("ann",), "tasks": ("math", "logic")})
    found = passed(judge(strict, shows(version, None, 0.5), "bob"))
    assert found == {
        "gain on math": True,
        "gain on logic": False,
        "guard on code": True,
        "latency on math": True,
        "latency on logic": False,
        "latency on code": True,
        "approver": False,
    }
    alone = Evidence("e", "", "", "", "", "", {"math": measured(0.5, 0.6, 1.3)})
    assert not passed(judge(strict, alone, "ann"))["latency on math"]
    unknown = TaskEvidence(1, "", Estimate(1, None, None), Estimate(0, None, None), Estimate(1, None, None), None)
    assert not passed(judge(GATE, Evidence("e", "", "", "", "", "", {"math": unknown}), "ann"))["gain on math"]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": ["math"], "guard": {"tasks": ["math"]}}, "named twice"),
        ({"tasks": ["math"], "gian": 1}, "gian"),
        ({"tasks": ["math"], "gain": float("nan")}, "gain"),
        ({"tasks": ["math"], "alias": "a/b"}, "alias"),
        ({"tasks": ["math"], "latency": 0}, "latency"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(gate: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(gate, GateSpec)


def test_a_protected_alias_moves_through_its_gate_alone(
    registry: ExpertRegistry, put: Put, make_z: MakeZ, caplog: pytest.LogCaptureFixture
) -> None:
    first = put(alias="champion")
    protect(registry, first, GATE, "it is in production")
    second = put(seed=1)
    z = make_z(2)
    for move in (
        lambda: registry.set_alias(second, "champion"),
        lambda: registry.drop_alias(first, "champion"),
        lambda: registry.register("math", z, Provenance.of(z), base_name="lab", alias="champion"),
        lambda: promote(registry, second, "champion"),
    ):
        with pytest.raises(RegistryError, match="has a gate"):
            move()
    assert [version.reference for version in registry.list()] == ["math/1", "math/2"]
    with caplog.at_level(logging.WARNING):
        registry.offer(second, "champion")
    assert f"zfleet experts promote {second.qualified} --to champion" in caplog.text
    with pytest.raises(RegistryError, match="gate of its own"):
        promote(registry, second, "champion", gate=GATE)
    assert registry.resolve("math", SLUG).version == 1
    unprotect(registry.aliases(SLUG, "math"), "champion", "over")
    assert registry.set_alias(second, "champion").aliases == ("champion",)
    with pytest.raises(RegistryError, match="has no gate"):
        unprotect(registry.aliases(SLUG, "math"), "champion", "over")


def test_fail_pass_and_force(registry: ExpertRegistry, put: Put) -> None:
    first = put(alias="champion")
    protect(registry, first, GATE)
    second, third = put(seed=1), put(seed=2)
    failed = promote(registry, second, "champion", evidence=shows(second, first, 0.01))
    assert not failed.promoted
    assert registry.resolve("math", SLUG).version == 1
    dry = promote(registry, second, "champion", evidence=shows(second, first, 0.03), dry_run=True)
    assert dry.promoted
    assert dry.entry is None
    assert registry.resolve("math", SLUG).version == 1
    won = promote(registry, second, "champion", evidence=shows(second, first, 0.03))
    assert won.promoted
    assert won.present == "math/1"
    assert registry.resolve("math", SLUG).version == 2
    with pytest.raises(RegistryError, match="no reason"):
        promote(registry, third, "champion", force=True, why=" ")
    forced = promote(registry, third, "champion", force=True, why="an incident")
    assert registry.resolve("math", SLUG).version == 3
    entries = [failed.entry, won.entry, forced.entry]
    assert [entry and entry.action.what for entry in entries] == ["refuse", "promote", "force"]
    stored = registry.log(SLUG, "math").entry(won.entry.number if won.entry else 0)
    assert stored is not None
    assert stored.action.evidence["decision"]["passed"] is True
    assert stored.action.evidence["evidence"]["tasks"]["math"]["difference"]["low"] == 0.03
    again = promote(registry, third, "champion")
    assert again.promoted
    assert again.entry is None


def test_evidence_of_other_versions_is_refused(registry: ExpertRegistry, put: Put) -> None:
    first, second, third = put(alias="champion"), put(seed=1), put(seed=2)
    protect(registry, first, GATE)
    for evidence, side in ((shows(third, first, 0.5), "candidate"), (shows(second, None, 0.5), "present")):
        with pytest.raises(RegistryError, match=f"the evidence's {side} is z"):
            promote(registry, second, "champion", evidence=evidence)
    registry._client.set_registered_model_alias(f"{SLUG}.math", "champion", "3")
    with pytest.raises(RegistryError, match=r"at version 3 in MLflow and at 1 in the log") as caught:
        promote(registry, second, "champion", evidence=shows(second, third, 0.5))
    assert "zfleet experts fsck --repair" in caught.value.remedy


def test_an_alias_without_a_gate_is_promoted_and_logged(registry: ExpertRegistry, put: Put) -> None:
    put()
    second = put(seed=1)
    assert promote(registry, second, "champion").promoted
    with pytest.raises(RegistryError, match="gate is for the alias 'champion', not 'canary'"):
        promote(registry, second, "canary", gate=GATE)
    refused = promote(
        registry, second, "canary", gate=GATE.model_copy(update={"alias": "canary"}), evidence=shows(second, None, 0.0)
    )
    assert not refused.promoted
    assert registry.log(SLUG, "math").state.gates == {}
    with pytest.raises(RegistryError, match="'v7' is reserved"):
        promote(registry, second, "v7")


def test_a_gate_asks_who_signed(registry: ExpertRegistry, put: Put, keys: Path) -> None:
    version = put()
    gate = GATE.model_copy(update={"signed_by": ((keys / "release.pub").read_text(),)})
    protect(registry, version, gate)
    refused = promote(registry, version, "champion", evidence=shows(version, None, 0.5))
    assert refused.decision is not None
    assert [check.check for check in refused.decision.checks if not check.passed] == ["signed by"]
    assert "is not signed" in refused.decision.checks[-1].measured
    sign_version(registry, version, Signer(keys / "release.key"))
    passed = promote(registry, version, "champion", evidence=shows(version, None, 0.5))
    assert passed.promoted
    assert passed.entry is not None
    recorded = passed.entry.action.evidence["decision"]["checks"][-1]
    assert recorded["passed"]
    assert recorded["measured"] == str(trusted_key((keys / "release.pub").read_text()))
    with pytest.raises(RegistryError, match="no public key"):
        protect(registry, version, GATE.model_copy(update={"signed_by": ("no key",)}))


def test_rollback_goes_back_one_choice_at_a_time(registry: ExpertRegistry, put: Put) -> None:
    for seed in range(3):
        put(seed=seed, alias="champion")
    assert rollback(registry, SLUG, "math", "champion", "wrong answers").action.version == 2
    assert registry.resolve("math", SLUG).version == 2
    assert rollback(registry, SLUG, "math", "champion").action.version == 1
    with pytest.raises(RegistryError, match="no version that 'champion' had before"):
        rollback(registry, SLUG, "math", "champion")
    registry.set_alias(registry.resolve("math/3", SLUG), "champion")
    registry.drop_alias(registry.resolve("math/3", SLUG), "champion")
    assert rollback(registry, SLUG, "math", "champion").action.version == 3
    registry._client.delete_model_version(f"{SLUG}.math", "1")
    with pytest.raises(ExpertNotFound, match="was version 1 before, which was deleted"):
        rollback(registry, SLUG, "math", "champion")
    with pytest.raises(RegistryError, match="no version that 'canary' had before"):
        rollback(registry, SLUG, "math", "canary")


def test_an_alias_from_before_the_log_can_be_restored(registry: ExpertRegistry, put: Put) -> None:
    put()
    second = put(seed=1)
    registry._client.set_registered_model_alias(f"{SLUG}.math", "champion", "1")
    registry.set_alias(second, "champion")
    assert rollback(registry, SLUG, "math", "champion").action.version == 1
    with pytest.raises(RegistryError, match="no version"):
        rollback(registry, SLUG, "math", "champion")


def test_traffic_is_checked_and_logged(registry: ExpertRegistry, put: Put) -> None:
    put(alias="champion")
    put(seed=1, alias="canary")
    put(seed=2, alias="candidate")
    aliases = registry.aliases(SLUG, "math")
    assert traffic_of(aliases) == Traffic()
    wanted = Traffic({"champion": 90, "canary": 10}, "candidate")
    set_traffic(aliases, wanted, "try it")
    assert traffic_of(aliases) == wanted
    assert json.loads(aliases.model_tags()["zfleet.traffic"]) == {
        "shares": {"champion": 90, "canary": 10},
        "shadow": "candidate",
    }
    for bad, message in (
        (Traffic({"champion": 90}), "are 90 % together"),
        (Traffic({"champion": 100, "canary": 0}), "share of 'canary' is 0 %"),
        (Traffic({"chmpion": 100}), "has no alias 'chmpion'"),
        (Traffic({"champion": 100}, "champion"), "has a share and is the shadow"),
    ):
        with pytest.raises(RegistryError, match=message):
            set_traffic(aliases, bad)
    with pytest.raises(RegistryError, match="has a share of the traffic, or is its shadow"):
        registry.drop_alias(registry.resolve("math@canary", SLUG), "canary")
    assert [e.action.what for e in aliases.log.entries() if isinstance(e, Entry)].count("traffic") == 1
    assert verify(aliases.log.entries()) is None
    aliases.set_model_tag("zfleet.traffic", "{")
    with pytest.raises(RegistryError, match="was edited"):
        traffic_of(aliases)


def test_the_commands(registry: ExpertRegistry, put: Put, root: Path, tmp_path: Path) -> None:
    put(alias="champion")
    put(seed=1, alias="canary")
    gate = tmp_path / "gate.yaml"
    gate.write_text("tasks: [math]\n")

    def call(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["experts", *arguments, "--registry", f"sqlite:///{root / 'mlflow.db'}"])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    assert "has a gate (entry 5 of the log)" in call("protect", "math", "--gate", str(gate))
    assert "has a gate" in call("promote", "math/2", code=1)
    assert "is champion now" in call("promote", "math/2", "--force", "--why", "an incident")
    assert json.loads(call("rollback", "math", "--json")) == {
        "alias": "champion",
        "version": 1,
        "found": 2,
        "entry": 7,
    }
    history = json.loads(call("history", "math", "--json"))
    assert history["broken"] is None
    forced, undone = history["entries"][-2:]
    assert (forced["what"], forced["why"], forced["version_before"], forced["version"]) == (
        "force",
        "an incident",
        1,
        2,
    )
    at = json.loads(call("history", "math", "--at", forced["at"], "--json"))
    assert at["aliases"]["champion"]["version"] == 2
    at = json.loads(call("history", "math", "--at", undone["at"], "--json"))
    assert at["aliases"]["champion"]["version"] == 1
    assert at["aliases"]["champion"]["chosen_by"]["entry"] == 2
    assert "begins after" in call("history", "math", "--at", "2020-01-01", code=1)
    assert "cannot be read" in call("history", "math", "--at", "yesterday", code=1)
    assert "an incident" in call("history", "math", "--entry", "6")
    assert "no entry 99" in call("history", "math", "--entry", "99", code=1)
    assert all(len(line) <= 80 for line in call("history", "math").splitlines())
    call("traffic", "math", "champion=90", "canary=10")
    assert json.loads(call("traffic", "math", "--json"))["shares"] == {"champion": 90, "canary": 10}
    call("alias", "math/1", "old")
    shadowed = json.loads(call("traffic", "math", "--shadow", "old", "--json"))
    assert shadowed == {"shares": {"champion": 90, "canary": 10}, "shadow": "old"}
    assert json.loads(call("traffic", "math", "champion=100", "--json"))["shadow"] == "old"
    assert json.loads(call("traffic", "math", "--shadow", "", "--json"))["shadow"] == ""
    registry._client.set_registered_model_tag(f"{SLUG}.math", "zfleet.traffic", "{")
    assert "--shadow ''" in call("traffic", "math", "champion=100", code=1)
    call("traffic", "math", "champion=90", "canary=10", "--shadow", "")
    assert "write it as ALIAS=PERCENT" in call("traffic", "math", "champion=9.5", code=1)
    registry._client.set_registered_model_alias(f"{SLUG}.math", "champion", "2")
    assert (
        "zfleet experts fsck --repair"
        in CliRunner()
        .invoke(app, ["experts", "history", "math", "--registry", f"sqlite:///{root / 'mlflow.db'}"])
        .stderr
    )
    (mended,) = json.loads(call("fsck", "--repair", "--json"))["faults"]
    assert mended["then"] == "put champion back to version 1, where the log has it"
    assert "is protected" not in call("protect", "math", "--drop", "champion", "--why", "over")
    registry._client.delete_model_version(f"log~{SLUG}.math", "6")
    assert "broken at entry 6: it was removed" in call("history", "math", code=1)


def test_a_decision_fits_80_columns(
    put: Put, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    strict = GATE.model_copy(update={"latency": 1.2, "approvers": ("ann", "bob")})
    print_rows(judge(strict, shows(put(), None, 0.01), "ann").checks, "math/7 against math/6")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("gain on math" in line and "at least +2.0" in line and "+6.0 [+1.0, +11.0]" in line for line in lines)

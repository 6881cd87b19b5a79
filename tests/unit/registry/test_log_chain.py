"""The chain of the log without a registry: what is sealed, which change breaks it, and what holds after each action."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet_registry.log import Action, Break, Entry, Position, State, verify
from zfleet_registry.log.chain import seal
from zfleet_registry.log.entry import Seal

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
EXPERT = "lab-1a2b3c4d.math"


def act(what: str, minute: float = 0, **values: object) -> Action:
    values = {"alias": "champion", **values}
    return Action(what, EXPERT, who="ann", time=NOON + timedelta(minutes=minute), **values)  # type: ignore[arg-type]


def chain(*actions: Action) -> list[Entry]:
    entries: list[Entry] = []
    for number, action in enumerate(actions, start=1):
        entries.append(seal(number, action, entries[-1] if entries else None))
    return entries


actions = st.builds(
    act,
    st.sampled_from(["register", "set", "drop", "promote", "refuse", "force", "protect", "traffic", "repair"]),
    st.floats(-100, 100),
    alias=st.sampled_from(["champion", "canary", "x" * 60]),
    version=st.integers(1, 9),
    relies_on=st.none() | st.integers(0, 5),
    gate=st.integers(0, 3),
    why=st.text(max_size=20),
    evidence=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5), max_size=3),
)


@given(st.lists(actions, min_size=1, max_size=8), st.data())
def test_any_change_to_any_entry_breaks_the_chain(some: list[Action], data: st.DataObject) -> None:
    entries = chain(*some)
    assert verify(entries) is None
    times = [entry.seal.at for entry in entries]
    assert times == sorted(times), "in the chain, time never goes back"
    for entry in entries:
        assert Action.from_json(entry.action.to_json()) == entry.action
        assert Seal.from_json(entry.seal.to_json()) == entry.seal
    place = data.draw(st.integers(0, len(entries) - 1))
    action = entries[place].action
    edited = replace(entries[place], action=replace(action, why=action.why + "."))
    assert verify([*entries[:place], edited, *entries[place + 1 :]]) == Break(
        place + 1, "it, or what it is tied to, was changed"
    )
    if place < len(entries) - 1:
        removed = verify([*entries[:place], *entries[place + 1 :]])
        assert removed is not None
        assert removed.number == place + 1
        # A forger who seals the edited entry again breaks the next one.
        forged = seal(place + 1, edited.action, entries[place - 1] if place else None)
        broken = verify([*entries[:place], forged, *entries[place + 1 :]])
        assert broken is not None
        assert broken.number == place + 2


def test_an_entry_that_cannot_be_read_is_named() -> None:
    entries = chain(act("set", version=1), act("set", version=2))
    assert verify([entries[0], Break(2, "it cannot be read")]) == Break(2, "it cannot be read")


def test_a_clock_that_is_an_hour_off_is_kept_and_does_not_turn_time_back() -> None:
    ahead, right, later = chain(act("set", 60, version=1), act("set", 1, version=2), act("set", 61, version=3))
    assert [entry.seal.at for entry in (ahead, right, later)] == [
        NOON + timedelta(minutes=60),
        NOON + timedelta(minutes=60),
        NOON + timedelta(minutes=61),
    ]
    assert [entry.clock_off for entry in (ahead, right, later)] == [False, True, False]
    assert right.action.time == NOON + timedelta(minutes=1)


def test_an_action_without_effect_changes_nothing() -> None:
    first, late, second = chain(
        act("promote", version=1, relies_on=0),
        act("promote", version=2, relies_on=0),
        act("promote", version=3, relies_on=1),
    )
    assert [entry.seal.effective for entry in (first, late, second)] == [True, False, True]
    assert late.seal.state == first.seal.state
    assert second.seal.state.aliases == {"champion": Position(3, 3)}


@pytest.mark.parametrize(
    ("action", "effective"),
    [
        (act("set", version=2), False),
        (act("drop"), False),
        (act("promote", version=2, gate=0), False),
        (act("promote", version=2, gate=2), True),
        (act("force", version=2), True),
        (act("rollback", version=2, relies_on=1, returns_to=0), True),
    ],
)
def test_a_gate_holds_in_the_log_itself(action: Action, effective: bool) -> None:
    """Whatever a command looked at before: the chain decides whether the gate was passed."""
    *_, last = chain(act("set", version=1), act("protect", data={"tasks": ["math"]}), action)
    assert last.seal.effective is effective


def test_a_gate_is_removed() -> None:
    *_, last = chain(act("protect"), act("unprotect"), act("set", version=4))
    assert last.seal.state == State({"champion": Position(4, 3)}, {}, 0)


def test_unknown_actions_and_fields_are_refused() -> None:
    text = act("set", version=1).to_json()
    with pytest.raises(ValueError, match="unknown action 'destroy'"):
        Action.from_json(text.replace('"set"', '"destroy"'))
    with pytest.raises(ValueError, match="unknown fields: more"):
        Action.from_json(text.replace('{"alias"', '{"more":1,"alias"'))

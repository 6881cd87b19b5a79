"""Which aliases answer which share of an expert's traffic, and which one answers copies that nobody sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from zfleet.errors import RegistryError
from zfleet_registry.aliases import Aliases
from zfleet_registry.log import Action, Entry
from zfleet_registry.tags import PREFIX

TAG = f"{PREFIX}traffic"
"""The tag of the expert's registered model that has the traffic, as JSON: what services read."""


@dataclass(frozen=True)
class Traffic:
    """The traffic of an expert.

    Attributes:
        shares: {alias: percent}; together 100. Empty: all goes to the champion.
        shadow: The alias that answers copies; empty: none.
    """

    shares: Mapping[str, int] = field(default_factory=dict)
    shadow: str = ""


def set_traffic(aliases: Aliases, traffic: Traffic, why: str = "") -> Entry:
    """Record the traffic of an expert in its log, and store it where services read it.

    Raises:
        RegistryError: Shares are no whole percents or do not add up to 100, or an alias does not exist.
    """
    _check(traffic, aliases.present(), aliases.expert)
    entry = aliases.log.append(Action("traffic", aliases.expert, why=why, data=asdict(traffic)))
    follow_traffic(aliases)
    return entry


def traffic_of(aliases: Aliases) -> Traffic:
    """Return the traffic that services read."""
    text = aliases.model_tags().get(TAG)
    try:
        return Traffic() if text is None else Traffic(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"the traffic of {aliases.expert} cannot be read: tag {TAG} was edited",
            f"set both again: zfleet experts traffic {aliases.expert} champion=100 --shadow ''",
        ) from error


def logged_traffic(aliases: Aliases) -> Traffic | None:
    """Return the traffic that the log has; None if none was ever set, or its entry cannot be read."""
    number = aliases.log.state.traffic
    entry = aliases.log.entry(number) if number else None
    return None if entry is None else Traffic(**entry.action.data)


def check_no_traffic(aliases: Aliases, alias: str) -> None:
    """Refuse to drop an alias that answers traffic.

    Raises:
        RegistryError: It has a share, or is the shadow.
    """
    traffic = traffic_of(aliases)
    if alias in traffic.shares or alias == traffic.shadow:
        raise RegistryError(
            f"alias {alias!r} of {aliases.expert} has a share of the traffic, or is its shadow",
            f"set the traffic without it first: zfleet experts traffic {aliases.expert} champion=100 --shadow ''",
        )


def follow_traffic(aliases: Aliases) -> None:
    """Store the traffic of the newest entry, until no newer one changes it meanwhile."""
    number = aliases.log.state.traffic
    while number:
        entry = aliases.log.entry(number)
        if entry is not None:
            aliases.set_model_tag(TAG, json.dumps(dict(entry.action.data), sort_keys=True))
        newest = aliases.log.state.traffic
        if newest == number:
            return
        number = newest


def _check(traffic: Traffic, present: Mapping[str, int], expert: str) -> None:
    named = [*traffic.shares, *([traffic.shadow] if traffic.shadow else [])]
    if missing := [alias for alias in named if alias not in present]:
        raise RegistryError(
            f"{expert} has no alias {missing[0]!r}", f"its aliases: {', '.join(sorted(present)) or 'none'}"
        )
    if bad := [alias for alias, share in traffic.shares.items() if not 0 < share <= 100]:
        raise RegistryError(
            f"the share of {bad[0]!r} is {traffic.shares[bad[0]]} %", "give whole percents from 1 to 100"
        )
    if traffic.shares and (total := sum(traffic.shares.values())) != 100:
        raise RegistryError(f"the shares of {expert} are {total} % together", "make them 100 %")
    if traffic.shadow and traffic.shadow in traffic.shares:
        raise RegistryError(f"{traffic.shadow!r} has a share and is the shadow", "choose one of them")

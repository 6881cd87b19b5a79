"""Whose z a member of the pool holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zfleet_cluster.fleet.leases import LEASE_SECONDS, Holders

CLIENTS = st.sampled_from(["one", "other", "third"])
DIGESTS = st.sampled_from(["x", "y"])


@given(st.lists(st.tuples(st.booleans(), CLIENTS, DIGESTS)))
def test_a_z_is_let_go_by_the_last_that_holds_it(steps: list[tuple[bool, str, str]]) -> None:
    holders, held = Holders(), set[tuple[str, str]]()
    for puts, client, digest in steps:
        if puts:
            holders.hold(client, digest, 0.0)
            held.add((client, digest))
        else:
            last = {owner for owner, own in held if own == digest} == {client}
            held.discard((client, digest))
            assert holders.release(client, digest) == last
    assert holders.expire(2 * LEASE_SECONDS) == {digest for _, digest in held}
    assert holders.expire(4 * LEASE_SECONDS) == set()


def test_what_only_a_silent_client_held_is_let_go() -> None:
    holders = Holders()
    for client, digest in (("dead", "its own"), ("dead", "shared"), ("alive", "shared"), ("alive", "another")):
        holders.hold(client, digest, 0.0)
    holders.hear("alive", 1.0)
    assert holders.expire(LEASE_SECONDS) == set()
    assert holders.expire(LEASE_SECONDS + 0.5) == {"its own"}
    # It lives after all: nothing is its any more, until it puts it again.
    holders.hear("dead", LEASE_SECONDS)
    assert not holders.release("dead", "shared")
    holders.hold("dead", "shared", LEASE_SECONDS)
    assert not holders.release("alive", "shared")
    assert holders.release("dead", "shared")

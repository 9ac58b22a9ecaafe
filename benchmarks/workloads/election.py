"""B5: five actors elect a leader, by messages from actor to actor: a round of the bully algorithm.

Through storage that is polled, such a round took 16.7 s in the post that this comes from.
"""

from __future__ import annotations

from benchmarks import functions
from benchmarks.systems import key_of
from benchmarks.workload import Metric, NotOffered, Turn, Workload

MEMBERS = 5


def measure(turn: Turn) -> None:
    system = turn.system
    if not system.nests:
        raise NotOffered("actors that call each other")
    members = [system.actor(functions.Member, key_of(system), number) for number in range(MEMBERS)]
    system.get_all([system.method(member, "join")(members) for member in members])
    begins = 0

    def election() -> None:
        nonlocal begins
        leader = system.get(system.method(members[begins], "elect")())
        assert leader == MEMBERS - 1
        begins = (begins + 1) % (MEMBERS - 1)

    turn.record("election", *(took * 1e3 for took in turn.times(election, most=200, within_s=0.5)))
    assert system.get_all([system.method(member, "leads")() for member in members]) == [MEMBERS - 1] * MEMBERS
    for member in members:
        system.end_actor(member)


WORKLOAD = Workload(
    (Metric("election", "B5: five actors elect a leader, one round", "ms"),), measure, rounds=1, cap_s=40
)

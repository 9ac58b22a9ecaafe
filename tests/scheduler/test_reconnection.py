"""What a node brings back after a restart of the scheduler, when its connection breaks once more."""

from __future__ import annotations

from atoll.protocol import messages as m
from atoll.scheduler.core.cluster import GRACE_S
from tests.scheduler.world import World, registration


def test_what_was_told_to_be_lost_is_not_taken_up_again() -> None:
    """A task that waited for others keeps no CPU of a node that reconnects: its holder runs it anew elsewhere."""
    old = World()
    old.agent(cpus=1)
    client = old.client()
    old.demand(client, 1)
    (granted,) = old.granted(client)
    place = (granted.lease_id, granted.worker_id, granted.address)
    start = old.running[granted.lease_id]

    world = World(journal=old.journal)
    agent = world.connect("agent", b"node0001")
    world.say(agent, registration(1, 1, leases=[place], started=[start]))
    client = world.client()
    assert world.only(client, m.LeaseGranted).lease_id == granted.lease_id, "it lives on from before"
    world.lose(agent)
    assert world.only(client, m.LeaseLost).lease_id == granted.lease_id

    again = world.connect("agent", b"node0001")
    world.agents[again] = b"node0001"
    world.say(again, registration(1, 1, leases=[place], started=[start]))
    assert world.heard(client, m.LeaseGranted) == [], "nobody is given back what was told to be lost"
    assert world.only(again, m.EndLease) == m.EndLease(granted.lease_id, kill=True)
    world.demand(client, 1)
    assert world.granted(client) == [], "its CPU is in use until its worker has ended"
    world.say(again, m.LeaseEnded(granted.lease_id))
    assert len(world.granted(client)) == 1


def test_a_node_that_is_not_back_yet_is_not_said_to_be_gone() -> None:
    """An agent that fetches an object from another one would take it for lost, and with it what cannot run again."""
    world = World()
    first = world.agent(1)
    world.say(first, m.LocateNode(b"node0002"))
    world.say(first, m.LocateNode(b"node0003"))
    assert world.heard(first, m.NodeLocated) == []
    world.agent(2)
    assert world.only(first, m.NodeLocated) == m.NodeLocated(b"node0002", b"node0002", "/run/agent-2")
    world.wait(GRACE_S)
    assert world.only(first, m.NodeLocated) == m.NodeLocated(b"node0003", b"", ""), "it had its time"
    world.say(first, m.LocateNode(b"node0004"))
    assert world.only(first, m.NodeLocated) == m.NodeLocated(b"node0004", b"", "")


def test_nobody_is_answered_who_has_gone_while_he_looked_for_a_node() -> None:
    world = World()
    first = world.agent(1)
    world.say(first, m.LocateNode(b"node0002"))
    world.lose(first)
    world.agent(2)
    assert world.heard(first, m.NodeLocated) == []

"""Tasks go where the bytes are that they take, weighed against waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import Peer
from atoll.scheduler.policy import locality
from atoll.scheduler.policy.locality import Offer
from tests.scheduler.world import World

GIB = 2**30
offers = st.lists(
    st.builds(Offer, st.integers(0, 9), st.integers(0, 4 * GIB), st.floats(0, 10)),
    max_size=6,
    unique_by=lambda o: o.order,
)


def test_the_time_of_moving_is_weighed_against_waiting() -> None:
    busy, free = Offer(1, GIB, 0.5), Offer(2, 0, 0.0)
    assert locality.choose([busy, free], GIB) is busy, "moving a GiB takes two seconds"
    assert locality.choose([Offer(1, 2**20, 0.5), free], 2**20) is free
    assert locality.choose([Offer(1, GIB, 0.0), Offer(2, 3 * GIB, 0.0)], 4 * GIB) == Offer(2, 3 * GIB, 0.0)
    assert locality.choose([], 5) is None


@given(offers, st.integers(0, 8 * GIB))
def test_nothing_would_have_been_cheaper(found: list[Offer], total: int) -> None:
    chosen = locality.choose(found, total)
    assert (chosen is None) == (not found)
    for other in found:
        assert chosen is not None
        assert locality.cost_s(chosen, total) <= locality.cost_s(other, total)


def near(world: World, *sizes: tuple[int, int], **more: object) -> values.SchedulingClass:
    return world.shape(CPU=1, near=[(b"node%04d" % number, size) for number, size in sizes], **more)  # type: ignore[arg-type]


def three() -> tuple[World, Peer]:
    world = World()
    for number in (1, 2, 3):
        world.agent(number, cpus=2)
    return world, world.client(1)


def places(world: World, client: Peer) -> list[str]:
    return [granted.node_name for granted in world.granted(client)]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_task_goes_where_its_bytes_are(number: int) -> None:
    world, client = three()
    world.say(client, m.SetDemand(1, near(world, (number, GIB), (1 + number % 3, GIB // 2)), 2))
    assert places(world, client) == [f"host-{number}"] * 2


def fill(world: World, client: Peer, number: int, seconds: float) -> list[m.LeaseGranted]:
    """Hold a node with tasks that are known to take some time."""
    start = world.core.cluster.turn.wall(world.now)
    agent = next(peer for peer, node_id in world.agents.items() if node_id == b"node%04d" % number)
    world.say(agent, m.SpansRecorded([values.Span(b"someone", b"job-0001", "long", start, seconds, 1, "finished", 1)]))
    world.say(client, m.SetDemand(7, world.shape(CPU=1, label="long", node=(b"node%04d" % number).hex()), 2))
    return world.granted(client)


def test_little_does_not_wait_for_the_node_that_has_it() -> None:
    world, client = three()
    fill(world, client, 2, 1.0)
    world.say(client, m.SetDemand(1, near(world, (2, 2**20)), 1))
    assert places(world, client) == ["host-1"]


def test_much_waits_but_not_for_ever() -> None:
    world, client = three()
    fill(world, client, 2, 0.5)
    world.say(client, m.SetDemand(1, near(world, (2, GIB)), 1))
    world.wait(0.02)
    assert places(world, client) == []
    world.wait(locality.move_s(GIB) + 0.01)  # nothing became free there
    assert places(world, client) == ["host-1"]


def test_who_waits_goes_there_as_soon_as_there_is_room() -> None:
    world, client = three()
    held = fill(world, client, 2, 0.5)
    world.say(client, m.SetDemand(1, near(world, (2, GIB)), 1))
    assert places(world, client) == []
    world.say(client, m.ReturnLease(held[0].lease_id))
    assert places(world, client) == ["host-2"]


def test_nobody_waits_for_who_may_take_for_ever() -> None:
    world, client = three()
    world.say(client, m.SetDemand(7, world.shape(CPU=1, label="unknown", node=b"node0002".hex()), 2))
    world.granted(client)
    world.say(client, m.SetDemand(1, near(world, (2, GIB)), 1))
    assert places(world, client) == ["host-1"]


def test_a_node_that_is_gone_or_drained_is_not_waited_for() -> None:
    world, client = three()
    world.say(client, m.DrainNode(5, "host-2"))
    world.say(client, m.SetDemand(1, near(world, (2, GIB), (9, GIB)), 1))
    assert places(world, client) == ["host-1"]


def test_too_many_nodes_are_no_request() -> None:
    world, client = three()
    world.say(client, m.SetDemand(1, near(world, *[(number, 1) for number in range(9)]), 1))
    assert "at most 4 nodes" in world.only(client, m.DemandRefused).text

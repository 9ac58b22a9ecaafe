"""Nodes that are emptied: nothing new, what runs ends or moves, objects go elsewhere, the node leaves."""

from __future__ import annotations

import pytest

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.state import DrainState
from tests.scheduler.world import World


def drain(world: World, peer: Peer, node: str = "host-1", deadline_s: float = 0.0) -> bytes:
    world.say(peer, m.DrainNode(5, node, deadline_s))
    return world.only(peer, m.DrainBegun).node_id


def state_of(world: World, peer: Peer, name: str = "host-1") -> DrainState | None:
    return next(node.drain for node in world.state(peer).nodes if node.name == name)


def two_nodes(*, stays: bool = False) -> tuple[World, Peer, Peer, Peer]:
    world = World()
    return world, world.agent(1, cpus=2, stays=stays), world.agent(2, cpus=2), world.client(1)


def test_what_runs_ends_then_objects_go_and_the_node_leaves() -> None:
    world, first, _second, client = two_nodes()
    world.demand(client, count=4, label="fit")
    leases = world.granted(client)
    there = [lease for lease in leases if lease.node_name == "host-1"]
    assert drain(world, client) == b"node0001"
    world.wait(0.3)
    recalled = {recall.lease_id for recall in world.heard(client, m.LeaseRecalled)}
    assert recalled == {lease.lease_id for lease in there}
    assert not world.heard(first, m.EndLease), "what runs is not ended"
    found = state_of(world, client)
    assert found is not None
    assert found.phase == "finishing"
    assert found.waits_for == ["fit of notebook-1.ipynb: to end"] * len(there)
    world.demand(client, count=4, label="fit")
    for lease in there:
        world.say(client, m.ReturnLease(lease.lease_id))
    assert all(lease.node_name == "host-2" for lease in world.granted(client))
    world.wait(0.3)
    (evacuate,) = world.heard(first, m.EvacuateObjects)
    assert evacuate.node_id == b"node0002"
    found = state_of(world, client)
    assert found is not None
    assert (found.phase, found.waits_for) == ("copying", ["its objects are being copied to host-2"])
    world.say(first, m.ObjectsEvacuated(3, 3 * 2**20))
    world.only(first, m.StopNode)
    world.lose(first)
    (departure,) = world.state(client).departures
    assert departure.whole
    assert departure.text == "3 objects copied to host-2; 0 actors moved"
    assert ("drains", b"node0001".hex()) not in world.journal


def test_a_copy_that_fails_is_tried_again_and_says_why() -> None:
    world, first, _second, client = two_nodes()
    drain(world, client)
    world.wait(0.3)
    world.only(first, m.EvacuateObjects)
    world.say(first, m.ObjectsEvacuated(1, 100, "the store of host-2 is full"))
    found = state_of(world, client)
    assert found is not None
    assert found.waits_for == ["the store of host-2 is full"]
    world.wait(5.5)
    world.only(first, m.EvacuateObjects)
    world.say(first, m.ObjectsEvacuated(2, 200))
    world.only(first, m.StopNode)


def test_the_successor_dies_while_it_copies() -> None:
    world, first, second, client = two_nodes()
    world.agent(3, cpus=2)
    drain(world, client)
    world.wait(0.3)
    assert world.only(first, m.EvacuateObjects).node_id == b"node0002"
    world.lose(second)
    world.wait(0.3)
    assert world.only(first, m.EvacuateObjects).node_id == b"node0003"


def test_actors_that_may_be_made_again_move_and_others_are_named() -> None:
    world, first, _second, client = two_nodes()
    node = values.SchedulingClass({"CPU": 10_000}, world.environment, node=b"node0001".hex(), node_soft=True)
    world.say(client, m.CreateActor(1, b"", world.actor_spec(1, "movable", shape=node, maximum_restarts=1)))
    world.say(client, m.CreateActor(2, b"", world.actor_spec(2, "stateful", shape=node)))
    world.serve()
    world.heard(client, m.ActorChanged)
    drain(world, client)
    world.wait(0.3)
    (end,) = [message for message in world.inbox[first] if isinstance(message, m.EndLease)]
    assert end.gently
    world.serve()
    actors = {actor.name: actor for actor in world.state(client).actors}
    assert (actors["movable"].state, actors["movable"].node_id) == ("alive", b"node0002".hex())
    assert (actors["stateful"].state, actors["stateful"].node_id) == ("alive", b"node0001".hex())
    saved = world.core.cluster.actors.living(b"actor%011d" % 1)
    assert saved is not None
    assert saved.restarts == 0, "it is nobody's fault"
    found = state_of(world, client)
    assert found is not None
    (line,) = found.waits_for
    assert line.startswith("actor stateful of notebook-1.ipynb: it may not be made again")
    world.say(client, m.KillActor(3, b"actor%011d" % 2))
    world.serve()
    world.wait(0.5)
    world.only(first, m.EvacuateObjects)


def test_an_actor_that_works_is_not_disturbed() -> None:
    world, first, _second, client = two_nodes()
    node = values.SchedulingClass({"CPU": 10_000}, world.environment, node=b"node0001".hex(), node_soft=True)
    world.say(client, m.CreateActor(1, b"", world.actor_spec(1, "llm", shape=node, maximum_restarts=-1)))
    world.serve()
    lease = next(iter(world.core.cluster.leases))
    start = world.core.cluster.turn.wall(world.now)

    def span(state: str) -> values.Span:
        return values.Span(lease.worker_id, b"job-0001", "generate", start, 1.0, 1, state, 7)

    world.say(first, m.SpansRecorded([span("running")]))
    drain(world, client)
    world.wait(2.0)
    assert not world.heard(first, m.EndLease)
    world.say(first, m.SpansRecorded([span("finished")]))
    world.wait(0.3)
    world.only(first, m.EndLease)


def test_at_the_deadline_what_still_runs_is_ended() -> None:
    world, first, _second, client = two_nodes()
    node = values.SchedulingClass({"CPU": 10_000}, world.environment, node=b"node0001".hex(), node_soft=True)
    world.say(client, m.CreateActor(1, b"", world.actor_spec(1, "stateful", shape=node)))
    world.say(client, m.SetDemand(1, node, 1))
    (lease,) = world.granted(client)
    drain(world, client, deadline_s=10.0)
    world.wait(9.5)
    assert not world.heard(client, m.LeaseLost)
    world.wait(1.0)
    (lost,) = world.heard(client, m.LeaseLost)
    assert (lost.lease_id, lost.kind) == (lease.lease_id, "WorkerCrashedError")
    assert "deadline" in lost.text
    (actor,) = world.state(client).actors
    assert actor.state == "dead"
    assert "host-1 is being drained, and the deadline" in actor.cause
    world.serve()
    world.wait(0.5)
    world.only(first, m.EvacuateObjects)


def test_bundles_move_and_nothing_new_enters_those_that_cannot_yet() -> None:
    world, _first, _second, client = two_nodes()
    group_id = world.group(client, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    world.agent(3, cpus=2)
    world.demand(client, key=4, CPU=0.5, group=group_id, bundle=0, label="inside")
    (inside,) = world.granted(client)
    drain(world, client, inside.node_name)
    world.wait(0.3)
    world.demand(client, key=5, CPU=0.5, group=group_id, bundle=0, label="also inside")
    assert not world.granted(client)
    world.say(client, m.ReturnLease(inside.lease_id))
    world.serve()
    world.wait(0.5)
    found = world.find_group(client, group_id)
    assert found.state == "CREATED"
    assert inside.node_id not in found.nodes
    assert [lease.node_name for lease in world.granted(client)] == ["host-3"]


def test_the_first_node_of_a_host_stays_empty() -> None:
    world, first, _second, client = two_nodes(stays=True)
    drain(world, client)
    world.wait(0.3)
    assert not world.heard(first, m.EvacuateObjects)
    found = state_of(world, client)
    assert found is not None
    assert found.phase == "empty"
    world.say(client, m.DrainNode(6, "host-1", undo=True))
    world.only(client, m.DrainBegun)
    assert state_of(world, client) is None
    world.demand(client, count=4)
    assert {lease.node_name for lease in world.granted(client)} == {"host-1", "host-2"}


@pytest.mark.parametrize(
    ("node", "undo", "text"),
    [
        ("host-9", False, "no node is called 'host-9'; there are: host-1"),
        ("6e6f", False, "stands for 2 nodes"),
        ("host-1", True, "is not being drained"),
    ],
)
def test_what_cannot_be_drained_is_refused_in_one_line(node: str, undo: bool, text: str) -> None:
    world, _first, _second, client = two_nodes()
    world.say(client, m.DrainNode(5, node, undo=undo))
    assert text in world.only(client, m.Failed).text


def test_the_last_node_is_not_drained() -> None:
    world, _first, _second, client = two_nodes()
    drain(world, client, "host-1")
    world.say(client, m.DrainNode(5, "host-2"))
    assert "atoll down" in world.only(client, m.Failed).text


def test_what_could_be_nowhere_else_fails_and_says_so() -> None:
    world, _first, _second, client = two_nodes()
    only = values.SchedulingClass({"CPU": 20_000}, world.environment, node=b"node0001".hex())
    world.say(client, m.SetDemand(1, only, 2))
    world.serve()
    drain(world, client)
    assert "being drained" in world.only(client, m.DemandRefused).text
    world.say(client, m.SetDemand(2, only, 1))
    assert "host-1 only, and that is being drained" in world.only(client, m.DemandRefused).text


def test_a_node_that_dies_while_it_is_drained() -> None:
    world, first, _second, client = two_nodes()
    world.demand(client, count=4)
    there = [lease for lease in world.granted(client) if lease.node_name == "host-1"]
    drain(world, client)
    world.wait(0.3)
    world.lose(first)
    assert {lost.lease_id for lost in world.heard(client, m.LeaseLost)} == {lease.lease_id for lease in there}
    (departure,) = world.state(client).departures
    assert not departure.whole
    assert departure.text == "it was lost while it was finishing"


def test_a_drain_outlives_the_scheduler() -> None:
    world, _first, _second, client = two_nodes()
    world.demand(client, count=4)
    there = [lease for lease in world.granted(client) if lease.node_name == "host-1"]
    drain(world, client)
    after = World(journal=world.journal)
    after.now = Instant(world.now + 1.0)
    after.environment = world.environment
    living = [(lease.lease_id, lease.worker_id, lease.address) for lease in there]
    first = after.agent(1, leases=living, started=[world.running[lease.lease_id] for lease in there])
    after.agent(2)
    client = after.client(1)
    after.wait(0.3)
    assert {recall.lease_id for recall in after.heard(client, m.LeaseRecalled)} == {lease.lease_id for lease in there}
    for lease in there:
        after.say(client, m.ReturnLease(lease.lease_id))
    after.serve()
    after.wait(0.3)
    after.only(first, m.EvacuateObjects)


def test_named_objects_are_where_they_were_copied_to() -> None:
    world, first, second, client = two_nodes()
    location = values.ObjectLocation(b"object-%013d" % 1, b"node0001", 10)
    world.say(client, m.PublishName(4, "flights", location))
    world.say(first, m.ObjectAdopted(location.object_id))
    drain(world, client)
    world.wait(0.3)
    world.say(first, m.ObjectsEvacuated(1, 10))
    adopt = world.only(second, m.AdoptObject)
    assert (adopt.object_id, adopt.name) == (location.object_id, "flights")
    world.say(second, m.ObjectAdopted(location.object_id))
    world.lose(first)
    world.say(client, m.ClaimName(5, "flights"))
    claimed = world.only(client, m.NameClaimed).location
    assert claimed is not None
    assert claimed.node_id == b"node0002"

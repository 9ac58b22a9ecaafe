"""Actors that nobody has a handle of any more, or whose handles nobody counts."""

from __future__ import annotations

import msgspec

from atoll.protocol import messages as m
from atoll.protocol.machine import Peer
from atoll.protocol.values import ActorSpec
from tests.scheduler.world import World, job_id


def make(world: World, peer: Peer, maker: bytes, number: int, **more: object) -> ActorSpec:
    """Have a process make an actor, which lives then."""
    spec = world.actor_spec(number, str(more.pop("name", "")), **more)
    spec = msgspec.structs.replace(spec, actor_id=maker + number.to_bytes(8, "big"))
    world.say(peer, m.CreateActor(50 + number, b"", spec))
    world.serve()
    world.heard(peer, m.ActorChanged)
    return spec


def home(world: World, spec: ActorSpec) -> tuple[int, bytes]:
    """Return the lease and the process of an actor."""
    for lease in world.core.cluster.leases:
        if lease.actor_id == spec.actor_id:
            return lease.lease_id, lease.worker_id
    raise AssertionError("it has no home")


def states(world: World, peer: Peer) -> dict[str, str]:
    return {actor.actor_id: actor.state for actor in world.state(peer).actors}


def test_an_actor_that_is_released_is_asked_to_end_and_its_name_is_free() -> None:
    world = World()
    agent = world.agent(cpus=4)
    client, other = world.client(1), world.client(2)
    spec = make(world, client, job_id(1), 1, name="llm")
    world.say(other, m.WatchActor(7, spec.actor_id))
    world.say(other, m.ReleaseActor(spec.actor_id))
    assert states(world, other) == {spec.actor_id.hex(): "alive"}, "only who has made it can tell"
    world.heard(agent, m.EndLease)
    world.heard(other, m.ActorChanged)
    world.say(client, m.ReleaseActor(spec.actor_id))
    end = world.only(agent, m.EndLease)
    assert (end.kill, end.gently) == (True, True)
    dead = world.only(other, m.ActorChanged)
    assert (dead.state, dead.cause) == ("dead", "its last handle is gone")
    world.say(other, m.GetActor(8, "llm", ""))
    assert world.only(other, m.Failed).kind == "ActorError"
    world.say(client, m.ReleaseActor(spec.actor_id))


def test_a_detached_actor_is_not_released() -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client(1)
    spec = make(world, client, job_id(1), 1, detached=True)
    world.say(client, m.ReleaseActor(spec.actor_id))
    assert states(world, client) == {spec.actor_id.hex(): "alive"}


def test_a_pending_actor_that_is_released_is_not_made() -> None:
    world = World()
    client = world.client(1)
    spec = msgspec.structs.replace(world.actor_spec(1), actor_id=job_id(1) + bytes(8))
    agent = world.agent(cpus=1)
    world.demand(client, 1)
    world.serve()
    world.say(client, m.CreateActor(1, b"", spec))
    world.say(client, m.ReleaseActor(spec.actor_id))
    assert not world.heard(agent, m.StartActor)
    assert world.core.statistics().actors == 0


def test_an_actor_goes_with_the_worker_that_has_made_it() -> None:
    world = World()
    agent = world.agent(cpus=4)
    client = world.client(1)
    parent = make(world, client, job_id(1), 1, maximum_restarts=1)
    lease_id, worker_id = home(world, parent)
    worker = world.connect("worker", worker_id)
    child = make(world, worker, worker_id, 2)
    stays = make(world, worker, worker_id, 3, detached=True)
    world.say(client, m.WatchActor(7, child.actor_id))
    world.heard(client, m.ActorChanged)
    world.say(agent, m.LeaseEnded(lease_id, "WorkerCrashedError", "it crashed"))
    world.serve()
    causes = {change.actor_id: change.cause for change in world.heard(client, m.ActorChanged)}
    found = states(world, client)
    assert found[parent.actor_id.hex()] == "alive", "it was made again, and makes its children again"
    assert found[child.actor_id.hex()] == "dead"
    assert found[stays.actor_id.hex()] == "alive"
    assert causes[child.actor_id] == "the process that made it is gone"


def test_what_a_detached_actor_has_made_stays_with_it_over_a_restart_of_the_scheduler() -> None:
    world = World()
    world.agent(cpus=4)
    client, other = world.client(1), world.client(2)
    parent = make(world, client, job_id(1), 1, detached=True)
    _lease_id, worker_id = home(world, parent)
    worker = world.connect("worker", worker_id)
    child = make(world, worker, worker_id, 2)
    mine = make(world, client, job_id(1), 3)
    world.lose(client)
    world.serve()
    found = states(world, other)
    assert found[child.actor_id.hex()] == found[parent.actor_id.hex()] == "alive"
    assert found[mine.actor_id.hex()] == "dead"
    restarted = World(journal=world.journal)
    watcher = restarted.client(9)
    restarted.agent(cpus=4)
    restarted.wait(12)
    restarted.serve()
    found = states(restarted, watcher)
    assert found[child.actor_id.hex()] == "dead", "its maker did not come back"

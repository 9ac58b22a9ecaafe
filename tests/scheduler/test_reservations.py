"""A large request gets its turn although small ones come without end, and small ones use what it does not need."""

from __future__ import annotations

from atoll.protocol import messages as m
from atoll.protocol.machine import Peer
from atoll.protocol.values import Span
from atoll.scheduler.policy.reservation import AFTER_S, may_backfill
from tests.scheduler.world import WALL, World


def recalled(world: World, client: Peer) -> list[int]:
    return [recall.lease_id for recall in world.heard(client, m.LeaseRecalled)]


def finish(world: World, agent: Peer, lease_id: int, name: str, duration_s: float) -> None:
    """Have a worker report a task that has run."""
    lease = world.core.cluster.leases.get(lease_id)
    assert lease is not None
    span = Span(lease.worker_id, lease.job.job_id, name, WALL, duration_s, 1, "finished", lease_id)
    world.say(agent, m.SpansRecorded([span]))


def test_small_requests_without_end_do_not_starve_a_large_one() -> None:
    """One job keeps asking for single CPUs, and gives each back after a while: the four that another needs at once
    come together within a bounded time."""
    world = World()
    world.agent(cpus=4)
    greedy, patient = world.client(1), world.client(2)
    world.demand(greedy, 50)
    held = {grant.lease_id for grant in world.granted(greedy)}
    world.demand(patient, 1, CPU=4)
    turns = 0
    while turns < 40:
        turns += 1
        world.wait(0.05)
        oldest = min(held)
        held.discard(oldest)
        world.say(greedy, m.ReturnLease(oldest))
        world.demand(greedy, 50)
        held |= {grant.lease_id for grant in world.granted(greedy)}
        if world.heard(patient, m.LeaseGranted):
            break
    assert turns < AFTER_S / 0.05 + 7
    assert not held


def test_what_runs_on_the_promised_node_is_asked_back_and_no_more_than_that() -> None:
    world = World()
    world.agent(1, cpus=4)
    world.agent(2, cpus=2)
    client, other = world.client(1), world.client(2)
    world.demand(client, 6)
    by_node: dict[str, list[int]] = {}
    for grant in world.granted(client):
        by_node.setdefault(grant.node_name, []).append(grant.lease_id)
    world.demand(client, 1, key=2, CPU=3)
    world.wait(AFTER_S / 2)
    early = recalled(world, client)
    world.wait(1)
    back = [*early, *recalled(world, client)]
    assert len(back) == 3, "three of the four there, and none of the other node"
    assert set(back) <= set(by_node["host-1"])
    world.demand(other, 3)
    for lease_id in back:
        world.say(client, m.ReturnLease(lease_id))
        world.serve()
    assert [grant.demand_key for grant in world.granted(client)] == [2]


def test_what_is_left_over_on_a_promised_node_is_used() -> None:
    world = World()
    world.agent(cpus=4, gpus=2)
    client = world.client()
    world.demand(client, 1, CPU=1, GPU=1)
    world.granted(client)
    world.demand(client, 1, key=2, GPU=2)
    world.wait(1)
    assert len(world.core.cluster.reservations) == 1
    world.demand(client, 9, key=3, CPU=1)
    assert len(world.granted(client)) == 3, "CPUs are not what it waits for"
    world.demand(client, 1, key=4, GPU=1)
    assert world.granted(client) == [], "the second device is"


def test_short_tasks_are_run_while_something_long_is_waited_for() -> None:
    """The request cannot begin before a task of a minute has ended: tasks of a second lose it no time."""
    world = World()
    agent, client = world.agent(cpus=2), world.client()
    world.demand(client, 2, CPU=1, label="minute")  # type: ignore[arg-type]
    long = world.granted(client)
    finish(world, agent, long[0].lease_id, "minute", 60.0)
    finish(world, agent, long[0].lease_id, "second", 1.0)
    world.demand(client, 1, key=2, CPU=2)
    world.wait(1)
    assert sorted(recalled(world, client)) == sorted(grant.lease_id for grant in long)
    world.say(client, m.ReturnLease(long[0].lease_id))
    world.serve()
    world.demand(client, 1, key=3, CPU=1, label="unknown")  # type: ignore[arg-type]
    assert world.granted(client) == [], "nobody knows how long that takes"
    world.demand(client, 1, key=4, CPU=0.5, label="second")  # type: ignore[arg-type]
    assert [grant.demand_key for grant in world.granted(client)] == [4]


def test_a_gang_gets_its_turn_too() -> None:
    world = World()
    for number in (1, 2):
        world.agent(number, cpus=2)
    greedy, patient = world.client(1), world.client(2)
    world.demand(greedy, 50)
    held = {grant.lease_id for grant in world.granted(greedy)}
    group = world.group(patient, {"CPU": 2}, {"CPU": 2}, strategy="STRICT_SPREAD")
    turns = 0
    while turns < 40:
        turns += 1
        world.wait(0.05)
        oldest = min(held)
        held.discard(oldest)
        world.say(greedy, m.ReturnLease(oldest))
        world.demand(greedy, 50)
        held |= {grant.lease_id for grant in world.granted(greedy)}
        if world.find_group(patient, group).state == "CREATED":
            break
    assert turns < AFTER_S / 0.05 + 7


def test_a_promise_ends_with_who_has_it_and_with_its_node() -> None:
    world = World()
    agents = [world.agent(1, cpus=2), world.agent(2, cpus=2)]
    client, other = world.client(1), world.client(2)
    world.demand(other, 4)
    world.granted(other)
    world.demand(client, 1, CPU=2)
    world.wait(1)
    promises = world.core.cluster.reservations
    assert [promise.node.name for promise in promises] == ["host-2"] or [p.node.name for p in promises] == ["host-1"]
    world.lose(agents[[promise.node.name for promise in promises] == ["host-2"]])
    world.wait(1)
    assert [promise.node.gone for promise in promises] == [False]
    world.demand(client, 0)
    assert len(promises) == 0


def begin_actor(world: World, client: Peer, priority: int = 0, **amounts: float) -> None:
    """Create an actor. What it holds nobody can ask back."""
    spec = world.actor_spec(shape=world.shape(priority=priority, **amounts))
    world.say(client, m.CreateActor(50, b"", spec))
    world.serve()


def test_what_waits_for_an_actor_to_end_keeps_nothing_from_others() -> None:
    world = World()
    world.agent(cpus=1, gpus=2)
    client, other = world.client(1), world.client(2)
    begin_actor(world, client, GPU=1)
    world.demand(other, 1, CPU=1, GPU=2)
    world.wait(1)
    assert len(world.core.cluster.reservations) == 0
    world.demand(client, 1, CPU=1, label="unknown")  # type: ignore[arg-type]
    assert len(world.granted(client)) == 1


def test_a_promise_in_whose_way_an_actor_comes_is_over() -> None:
    world = World()
    world.agent(cpus=2, gpus=1)
    client, other = world.client(1), world.client(2)
    world.demand(client, 1, CPU=1, GPU=1)
    (held,) = world.granted(client)
    world.demand(other, 1, CPU=2, GPU=1)
    world.wait(1)
    assert len(world.core.cluster.reservations) == 1
    begin_actor(world, client, priority=5, GPU=1)
    world.say(client, m.ReturnLease(held.lease_id))
    world.serve()
    world.wait(1)
    assert len(world.core.cluster.reservations) == 0
    world.demand(client, 1, key=3, CPU=1, label="unknown")  # type: ignore[arg-type]
    assert len(world.granted(client)) == 1


def test_when_backfilling_is_allowed() -> None:
    assert may_backfill({}, {}, None, 0.0), "it takes nothing of it"
    assert may_backfill({"CPU": 2}, {"CPU": 2}, None, 0.0)
    assert not may_backfill({"CPU": 2}, {"CPU": 3}, None, float("inf"))
    assert not may_backfill({}, {"GPU": 1}, 2.0, 1.0)
    assert may_backfill({"CPU": 2}, {"CPU": 3}, 1.0, 1.0)

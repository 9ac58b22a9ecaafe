"""Reasons for waiting, and the proof that what is proposed works: each change is applied, over thousands of states."""

from __future__ import annotations

import random
from typing import Any

import pytest

from atoll.protocol import messages as m
from atoll.protocol.explanation import ASK, END, FITS, IMPOSSIBLE, WAITS, Change, Explanation, decode_explanation
from atoll.protocol.machine import Peer
from atoll.protocol.values import Device, DeviceSample, LabelTerm, NodeSample, Outsider, SchedulingClass, Span
from atoll.resources import UNITS_PER_ONE, to_units
from atoll.scheduler.core.cluster import Cluster
from atoll.scheduler.core.placement import Shape
from atoll.scheduler.core.supply import wanted_of
from atoll.scheduler.core.why import Reasons
from atoll.scheduler.policy.smallest import Part, smallest_release
from tests.scheduler.world import WALL, World, devices

GIB = 2**30


def asked(world: World, peer: Peer, **wanted: Any) -> Explanation:
    """Ask what would be."""
    world.say(peer, m.Explain(5, scheduling_class=world.shape(**wanted)))
    return decode_explanation(world.only(peer, m.Explained).explanation)


def waits(world: World, peer: Peer, key: int = 1) -> Explanation:
    """Ask why a demand waits."""
    world.say(peer, m.Explain(5, demand_key=key))
    return decode_explanation(world.only(peer, m.Explained).explanation)


def test_who_holds_what_and_what_would_help() -> None:
    world = World()
    agent = world.agent(cpus=4, gpus=2)
    one, other = world.client(1), world.client(2)
    world.demand(one, 1, CPU=1, GPU=1, label="train")  # type: ignore[arg-type]
    lease = world.granted(one)[0]
    world.say(one, m.CreateActor(1, b"", world.actor_spec(1, "llm", shape=world.shape(GPU=1, label="Llm"))))  # type: ignore[arg-type]
    world.serve()
    span = Span(lease.worker_id, b"", "train", WALL, 600.0, 1, "finished", 1)
    world.say(agent, m.SpansRecorded([span]))
    world.wait(120)
    world.demand(other, 1, CPU=1, GPU=2)
    found = waits(world, other)
    assert (found.state, found.request) == (WAITS, "1 CPU, 2 GPU")
    assert [(h.kind, h.what, h.who, h.devices) for h in found.nodes[0].holders] == [
        ("task", "train", "notebook-1.ipynb", [0]),
        ("actor", "Llm", "notebook-1.ipynb", [1]),
    ]
    assert found.nodes[0].missing == {"GPU": 2}
    assert [change.text for change in found.changes] == [
        "train of notebook-1.ipynb and Llm of notebook-1.ipynb on host-1 all ended",
        "it asked for 1 CPU",
    ]
    assert found.starts_in_s is None, "an actor ends when somebody ends it"
    text = str(found)
    assert "host-1: 2 GPU short (2 of 2 GPU in use)" in text
    assert "actor Llm of notebook-1.ipynb holds 1 GPU on GPU 1 for 2 min" in text
    assert "expected start: nobody knows" in text
    world.demand(other, 1, key=2, GPU=1)
    found = waits(world, other, 2)
    assert found.changes[0].text == "train of notebook-1.ipynb on host-1 ended", "a task goes before an actor"
    assert found.starts_in_s == pytest.approx(480)
    assert found.before == 1


def test_nobody_before_what_does_not_wait() -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client()
    found = asked(world, client, CPU=2)
    assert (found.state, found.text, found.starts_in_s) == (FITS, "it begins now on host-1", 0.0)
    assert world.core.statistics().demands == 0, "nothing was asked for"
    world.say(client, m.Explain(5, demand_key=3))
    assert world.only(client, m.Failed).kind == "ValueError"


def test_what_can_never_be_says_what_could() -> None:
    world = World()
    world.agent(1, cpus=4, gpus=1)
    world.agent(2, cpus=8)
    client = world.client()
    world.demand(client, 8)
    world.granted(client)
    found = asked(world, client, CPU=6, GPU=1)
    assert found.state == IMPOSSIBLE
    assert found.text.startswith("no node has all of 6 CPU, 1 GPU at once; host-1 has 4 CPU, 1 GPU; host-2 has 8 CPU")
    assert [change.text for change in found.changes] == ["it asked for 4 CPU, 1 GPU"]
    found = asked(world, client, CPU=1, labels=[LabelTerm("zone", "in", ["a"])])
    assert (found.state, found.changes) == (IMPOSSIBLE, [])


def test_processes_outside_of_the_cluster_are_named() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=1), world.client()
    for outsiders, who in (([Outsider(123, 8 * GIB, "guest")], "process 123 of guest"), ([], "processes")):
        sampled = DeviceSample("SIM-GPU-0", 90, 8 * GIB, 8 * GIB, outsiders)
        world.say(agent, m.NodeSampled(NodeSample(0, 0, 0, 0, 0, [sampled], [], [])))
        found = asked(world, client, GPU=1)
        assert f"GPU 0: 8 GiB of 16 GiB in use by {who} outside of Atoll" in found.nodes[0].text
        (holder,) = found.nodes[0].holders
        named = who if outsiders else "a process that the driver does not name"
        assert str(holder) == f"{named} holds 8 GiB GPU memory on GPU 0"
    found = asked(world, client, gpu_memory=12 * GIB)
    assert [change.text for change in found.changes] == ["it asked for 8 GiB GPU memory"]


def test_a_place_that_is_promised_to_a_larger_one() -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client()
    world.demand(client, 3)
    world.granted(client)
    world.demand(client, 1, key=2, CPU=4, label="large")  # type: ignore[arg-type]
    world.wait(1)
    found = asked(world, client, CPU=1)
    assert found.state == FITS or "promised to large" in found.text
    world.demand(client, 1, key=3, CPU=0.5)
    assert waits(world, client, 3).text == "host-1 is promised to large, which waits for more of it"


def test_in_a_group_its_bundles_count() -> None:
    world = World()
    world.agent(cpus=8)
    client = world.client()
    group = world.group(client, {"CPU": 2}, name="gang")
    world.demand(client, 1, CPU=2, group=group, label="first")  # type: ignore[arg-type]
    world.granted(client)
    world.demand(client, 1, key=2, CPU=1, group=group)  # type: ignore[arg-type]
    found = waits(world, client, 2)
    assert found.nodes[0].node == "bundle 0 on host-1"
    assert [holder.what for holder in found.nodes[0].holders] == ["first"]
    found = asked(world, client, CPU=7)
    assert [(holder.kind, holder.what) for holder in found.nodes[0].holders] == [("group", "gang")]
    assert found.changes[0].group_ids == [group.hex()]


def test_the_smallest_set_is_found_and_the_cheapest_of_those() -> None:
    parts = [Part(number, float(10 - number)) for number in range(8)]
    sizes = dict(enumerate([1, 1, 2, 2, 3, 3, 4, 5]))

    def frees(wanted: int) -> Any:
        return lambda keys: sum(sizes[key] for key in keys) >= wanted

    assert smallest_release(parts, frees(4)) == [7]
    assert smallest_release(parts, frees(7)) == [7, 6]
    assert smallest_release(parts, frees(0)) == []
    assert smallest_release(parts, frees(22)) is None
    many = [Part(number, float(number)) for number in range(40)]
    found = smallest_release(many, lambda keys: len(keys) >= 5)
    assert found is not None
    assert len(found) == 5


# ------------------------------------------------------------------------------------------------------- the oracle

SHAPES: list[dict[str, float]] = [
    {"CPU": 1},
    {"CPU": 2},
    {"CPU": 3, "memory": 2 * GIB},
    {"GPU": 1},
    {"GPU": 2, "CPU": 1},
    {"GPU": 0.5, "CPU": 0.5},
    {"gpu_memory": 6 * GIB},
    {"CPU": 1, "licence": 1},
    {},
]


def random_state(chance: random.Random) -> tuple[World, Peer]:
    """Return a cluster in which some leases, actors and groups hold something."""
    world = World()
    for number in range(1, chance.randint(2, 4)):
        count = chance.choice([0, 0, 1, 2, 4])
        some = [Device(d.uuid, d.index, chance.choice(["A10", "H100"]), d.memory_bytes) for d in devices(count)]
        resources = {"licence": chance.randint(0, 2) * UNITS_PER_ONE}
        world.agent(number, cpus=chance.randint(1, 6), devices=some, resources=resources)
    clients = [world.client(number) for number in (1, 2)]
    for key in range(1, chance.randint(2, 9)):
        client = chance.choice(clients)
        shape = chance.choice(SHAPES)
        kind = chance.random()
        if kind < 0.75:
            world.demand(client, chance.randint(1, 3), key=key, **(shape or {"CPU": 0.5}))
        elif kind < 0.9:
            spec = world.actor_spec(key, shape=world.shape(**shape))
            world.say(client, m.CreateActor(1, b"", spec))
        elif shape:
            world.group(client, shape, {"CPU": 1}, number=key)
    world.serve()
    return world, clients[0]


def apply(cluster: Cluster, wanted: SchedulingClass, change: Change) -> bool:
    """Do what a change says, with the tables themselves, look whether the request is placed, and undo it."""
    if change.kind == ASK:
        resources = {name: to_units(name, amount) for name, amount in change.resources.items()}
        less = SchedulingClass(resources, "", device_types=wanted.device_types)
        return cluster.placement.best(Shape.of(less)) is not None
    ended = []
    for lease_id in change.lease_ids:
        lease = cluster.leases.get(lease_id)
        assert lease is not None
        ended.append((lease, lease.node.holdings[lease_id].supply))
        lease.node.release(lease_id)
    removed = [g for g in cluster.groups if g.spec.group_id.hex() in change.group_ids]
    bundles = [bundle for group in removed for bundle in group.bundles if bundle.node is not None and not bundle.leases]
    kept = [(bundle, bundle.node, bundle.node.reservations[bundle.number]) for bundle in bundles if bundle.node]
    for bundle, node, _reservation in kept:
        node.unreserve(bundle.number)
    placed = cluster.placement.best(Shape.of(wanted)) is not None
    for bundle, node, reservation in kept:
        made = node.reserve(bundle.number, bundle.shape.wanted, reservation.holding.shares)
        assert made is not None
        bundle.supply = made.supply
    for lease, supply in ended:
        assert lease.node.take_again(lease, wanted_of(lease.scheduling_class), lease.shares, supply)
    return placed


def test_each_change_that_is_proposed_places_the_request() -> None:
    """Three thousand requests on six hundred states. A request that waits is offered something whenever that is
    possible at all, and everything that is offered works."""
    chance = random.Random(6)
    applied = {END: 0, ASK: 0}
    for _state in range(600):
        world, _client = random_state(chance)
        cluster = world.core.cluster
        for _request in range(5):
            wanted = world.shape(**(chance.choice(SHAPES) or {"CPU": 5, "GPU": 1}))
            if chance.random() < 0.3 and "GPU" in wanted.resources:
                wanted = SchedulingClass(wanted.resources, wanted.environment, device_types=["H100"])
            found = Reasons(cluster).of_class(wanted)
            if found.state == FITS:
                assert cluster.placement.best(Shape.of(wanted)) is not None
                continue
            assert cluster.placement.best(Shape.of(wanted)) is None
            if found.state == IMPOSSIBLE:
                continue
            ends = [change for change in found.changes if change.kind == END]
            assert len(ends) == 1, f"{found} could begin if others ended"
            for change in found.changes:
                assert apply(cluster, wanted, change), f"{change} does not place {wanted}\n{found}"
                applied[change.kind] += 1
            world.core.check_invariants()
    assert applied[END] > 500
    assert applied[ASK] > 300


def test_what_is_proposed_works_with_all_that_happens_in_between() -> None:
    """The same with messages: leases are returned, actors killed, groups removed, and the lease is granted."""
    chance = random.Random(7)
    granted = 0
    for _state in range(500):
        world, client = random_state(chance)
        for demand in world.core.cluster.demands:
            if demand.record is not None and demand.shortfall > 0:
                world.say(demand.record.peer, m.SetDemand(demand.key, demand.scheduling_class, 0))
        if len(world.core.cluster.demands.queues) or world.core.cluster.groups.waiting():
            continue  # an actor or a group waits, and would be served first
        wanted = chance.choice(SHAPES) or {"CPU": 5}
        world.demand(client, 1, key=77, **wanted)
        if world.heard(client, m.DemandRefused) or world.granted(client):
            continue
        change = next(change for change in waits(world, client, 77).changes if change.kind == END)
        for lease_id in change.lease_ids:
            lease = world.core.cluster.leases.get(lease_id)
            assert lease is not None
            if lease.actor_id:
                world.say(client, m.KillActor(3, lease.actor_id))
            elif lease.record is not None:
                world.say(lease.record.peer, m.ReturnLease(lease_id))
        for group_id in change.group_ids:
            world.say(client, m.RemoveGroup(4, bytes.fromhex(group_id)))
        assert [grant.demand_key for grant in world.granted(client)] == [77], f"{change} and it still waits"
        granted += 1
    assert granted > 15

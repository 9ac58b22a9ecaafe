"""Placement groups: all or nothing, four strategies, what runs in them, and what happens when nodes and jobs go."""

from __future__ import annotations

import pytest

from atoll.protocol import messages as m
from atoll.protocol.values import LabelTerm
from atoll.resources import UNITS_PER_ONE
from tests.scheduler.world import World


def cpus_free(world: World, peer: m.Peer) -> list[float]:  # type: ignore[name-defined]
    return [node.resources_free["CPU"] for node in world.state(peer).nodes]


def test_a_group_is_created_used_and_removed() -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client()
    group = world.group(client, {"CPU": 2}, {"CPU": 1})
    assert world.only(client, m.Done).request == 7
    found = world.find_group(client, group)
    assert (found.state, found.nodes) == ("CREATED", [b"node0001", b"node0001"])
    assert cpus_free(world, client) == [1]
    world.demand(client, 2, CPU=1, group=group, bundle=0)  # type: ignore[arg-type]
    world.demand(client, 1, key=2, CPU=2, group=group, bundle=0)  # type: ignore[arg-type]
    granted = world.granted(client)
    assert [grant.demand_key for grant in granted] == [1, 1], "two CPUs of the bundle, and the third must wait"
    assert cpus_free(world, client) == [1], "what is taken from a bundle is not taken from the node"
    world.say(client, m.ReturnLease(granted[0].lease_id))
    world.say(client, m.ReturnLease(granted[1].lease_id))
    assert [grant.demand_key for grant in world.granted(client)] == [2]
    world.say(client, m.RemoveGroup(9, group))
    assert world.only(client, m.Done).request == 9
    assert world.only(client, m.LeaseLost).kind == "TaskPlacementGroupRemoved"
    assert cpus_free(world, client) == [1 + 1], "the bundle that is in use is free when its worker has ended"
    world.serve()
    assert cpus_free(world, client) == [4]
    assert world.find_group(client, group).state == "REMOVED"
    assert world.core.cluster.jobs.get(b"job-0001").history.held() == {}  # type: ignore[union-attr]


def test_all_bundles_or_none() -> None:
    world = World()
    world.agent(1, cpus=2)
    client = world.client()
    group = world.group(client, {"CPU": 2}, {"CPU": 1})
    assert world.find_group(client, group).state == "PENDING"
    assert cpus_free(world, client) == [2], "a group that waits holds nothing"
    world.say(client, m.WaitGroup(5, group))
    assert world.heard(client, m.GroupChanged) == []
    world.agent(2, cpus=1)
    changed = world.only(client, m.GroupChanged)
    assert (changed.request, changed.state) == (5, "CREATED")
    assert sorted(changed.nodes) == [b"node0001", b"node0002"]


@pytest.mark.parametrize(
    ("strategy", "nodes"),
    [
        ("PACK", {1: 3}),
        ("STRICT_PACK", {1: 3}),
        ("SPREAD", {1: 1, 2: 1, 3: 1}),
        ("STRICT_SPREAD", {1: 1, 2: 1, 3: 1}),
    ],
)
def test_strategies(strategy: str, nodes: dict[int, int]) -> None:
    world = World()
    for number in (1, 2, 3):
        world.agent(number, cpus=4)
    client = world.client()
    group = world.group(client, {"CPU": 1}, {"CPU": 1}, {"CPU": 1}, strategy=strategy)
    found = world.find_group(client, group).nodes
    assert {int(node[4:]): found.count(node) for node in found} == nodes


@pytest.mark.parametrize(
    ("strategy", "bundles", "state"),
    [
        ("STRICT_PACK", [3, 3], "PENDING"),
        ("PACK", [3, 3], "CREATED"),
        ("STRICT_SPREAD", [1, 1, 1], "PENDING"),
        ("SPREAD", [1, 1, 1], "CREATED"),
    ],
)
def test_strict_is_strict(strategy: str, bundles: list[int], state: str) -> None:
    world = World()
    for number in (1, 2):
        world.agent(number, cpus=4)
    client = world.client()
    group = world.group(client, *({"CPU": cpus} for cpus in bundles), strategy=strategy)
    assert world.find_group(client, group).state == state


def test_a_group_that_could_be_placed_is_never_missed_because_of_the_order() -> None:
    """The first idea, both large bundles on the first node, leaves no room for a device there."""
    world = World()
    world.agent(1, cpus=4, gpus=1)
    world.agent(2, cpus=4)
    client = world.client()
    group = world.group(client, {"CPU": 2}, {"CPU": 2}, {"CPU": 2, "GPU": 1}, {"CPU": 2})
    assert world.find_group(client, group).state == "CREATED"


def test_devices_of_a_bundle_are_its_own() -> None:
    world = World()
    world.agent(cpus=8, gpus=3)
    client = world.client()
    group = world.group(client, {"CPU": 1, "GPU": 2}, {"CPU": 1, "GPU": 0.5})
    world.demand(client, 2, GPU=1, group=group)  # type: ignore[arg-type]
    world.demand(client, 1, key=2, GPU=0.5, group=group)  # type: ignore[arg-type]
    world.demand(client, 2, key=3, GPU=0.5)
    world.demand(client, 1, key=4, GPU=1)
    granted = world.granted(client)
    by_key = {
        key: [(share.uuid, share.units) for g in granted if g.demand_key == key for share in g.devices]
        for key in (1, 2, 3, 4)
    }
    assert by_key[1] == [("SIM-GPU-0", UNITS_PER_ONE), ("SIM-GPU-1", UNITS_PER_ONE)]
    assert by_key[2] == [("SIM-GPU-2", 5_000)]
    assert by_key[3] == [("SIM-GPU-2", 5_000)], "half of it is not the group's; the second waits"
    assert by_key[4] == []


def test_what_no_bundle_can_give_is_refused_and_unknown_groups_too() -> None:
    world = World()
    world.agent(cpus=8)
    client = world.client()
    group = world.group(client, {"CPU": 2})
    world.demand(client, 1, CPU=3, group=group)  # type: ignore[arg-type]
    refused = world.only(client, m.DemandRefused)
    assert refused.kind == "TaskUnschedulableError"
    assert refused.text == "no bundle of its placement group has 3 CPU; they have: 2 CPU"
    world.demand(client, 1, CPU=1, group=group, bundle=1)  # type: ignore[arg-type]
    assert "none of number 1" in world.only(client, m.DemandRefused).text
    world.demand(client, 1, CPU=1, group=b"unknown")  # type: ignore[arg-type]
    assert world.only(client, m.DemandRefused).kind == "TaskPlacementGroupRemoved"


def test_what_waits_for_a_group_fails_when_it_is_removed() -> None:
    world = World()
    world.agent(cpus=2)
    client = world.client()
    group = world.group(client, {"CPU": 64})
    world.demand(client, 1, CPU=1, group=group)  # type: ignore[arg-type]
    assert world.granted(client) == []
    reason = world.state(client).demands[0].reason
    assert reason == ("its placement group is PENDING: bundle 0: no node has 64 CPU; the largest has 2 (host-1)")
    world.say(client, m.WaitGroup(5, group))
    world.say(client, m.RemoveGroup(9, group))
    assert world.only(client, m.DemandRefused).kind == "TaskPlacementGroupRemoved"
    assert world.only(client, m.GroupChanged).state == "REMOVED"


def test_bundles_of_a_lost_node_are_placed_anew_and_the_others_stay() -> None:
    world = World()
    agents = {number: world.agent(number, cpus=2) for number in (1, 2, 3)}
    client = world.client()
    group = world.group(client, {"CPU": 2}, {"CPU": 2}, strategy="STRICT_SPREAD")
    world.demand(client, 2, CPU=1, group=group)  # type: ignore[arg-type]
    granted = world.granted(client)
    assert {grant.node_name for grant in granted} == {"host-1"}
    world.demand(client, 1, key=2, CPU=1, group=group, bundle=1)  # type: ignore[arg-type]
    kept = world.granted(client)[0]
    assert kept.node_name == "host-2"
    world.lose(agents[1])
    assert {lost.lease_id for lost in world.heard(client, m.LeaseLost)} == {grant.lease_id for grant in granted}
    found = world.find_group(client, group)
    assert (found.state, found.nodes) == ("CREATED", [b"node0003", b"node0002"])
    assert world.core.cluster.leases.get(kept.lease_id) is not None
    world.lose(agents[3])
    assert world.find_group(client, group).state == "RESCHEDULING"
    world.agent(4, cpus=2)
    assert world.find_group(client, group).nodes == [b"node0004", b"node0002"]


def test_names() -> None:
    world = World()
    world.agent(cpus=4)
    first, second = world.client(1), world.client(2)
    group = world.group(first, {"CPU": 1}, name="trainers")
    world.heard(first, m.Done)
    world.group(second, {"CPU": 1}, number=2, name="trainers")
    assert "is taken by another placement group" in world.only(second, m.Failed).text
    world.say(second, m.FindGroup(3, b"", "trainers", ""))
    assert world.only(second, m.GroupChanged).spec.group_id == group
    world.say(second, m.FindGroup(3, b"", "others", ""))
    assert world.only(second, m.Failed).kind == "ValueError"
    world.say(second, m.RemoveGroup(4, group))
    world.group(second, {"CPU": 1}, number=2, name="trainers")
    assert len(world.heard(second, m.Done)) == 2


@pytest.mark.parametrize(("more", "stays"), [({}, False), ({"name": "trainers"}, True), ({"detached": True}, True)])
def test_an_anonymous_group_goes_with_its_job(more: dict[str, object], stays: bool) -> None:
    world = World()
    world.agent(cpus=4)
    client, other = world.client(1), world.client(2)
    group = world.group(client, {"CPU": 2}, **more)
    world.demand(client, 1, CPU=1, group=group)  # type: ignore[arg-type]
    world.granted(client)
    world.lose(client)
    world.serve()
    assert (world.core.cluster.groups.get(group) is not None) == stays
    assert cpus_free(world, other) == [2 if stays else 4]


def test_a_group_stays_as_long_as_a_detached_actor_lives_in_it() -> None:
    world = World()
    world.agent(cpus=4)
    client, other = world.client(1), world.client(2)
    group = world.group(client, {"CPU": 2})
    spec = world.actor_spec(1, "llm", detached=True, shape=world.shape(CPU=1, group=group))  # type: ignore[arg-type]
    world.say(client, m.CreateActor(1, b"", spec))
    world.serve()
    world.lose(client)
    world.serve()
    assert [actor.state for actor in world.state(other).actors] == ["alive"]
    world.say(other, m.KillActor(2, spec.actor_id))
    world.serve()
    assert cpus_free(world, other) == [4]


def test_an_actor_dies_with_its_group() -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client()
    group = world.group(client, {"CPU": 2})
    spec = world.actor_spec(1, shape=world.shape(CPU=1, group=group), maximum_restarts=-1)  # type: ignore[arg-type]
    world.say(client, m.CreateActor(1, b"", spec))
    world.serve()
    world.heard(client, m.ActorChanged)
    world.say(client, m.RemoveGroup(9, group))
    changed = world.only(client, m.ActorChanged)
    assert changed.state == "dead"
    assert changed.cause.startswith("TaskPlacementGroupRemoved: its placement group")


def test_a_restarted_scheduler_finds_groups_again_with_what_runs_in_them() -> None:
    world = World()
    world.agent(1, cpus=4, gpus=2)
    client = world.client()
    group = world.group(client, {"CPU": 2, "GPU": 1}, {"CPU": 1})
    pending = world.group(client, {"CPU": 64}, number=2, name="large")
    world.demand(client, 1, CPU=1, GPU=0.5, group=group)  # type: ignore[arg-type]
    granted = world.granted(client)[0]
    start = world.running[granted.lease_id]
    again = World(journal=world.journal)
    again.environment = world.environment
    again.running = dict(world.running)
    back = again.client()
    assert again.find_group(back, group).state == "PENDING", "its node is not back"
    again.group(back, {"GPU": 2}, number=3)
    live = [(granted.lease_id, granted.worker_id, granted.address)]
    again.agent(1, cpus=4, gpus=2, leases=live, started=[start])
    assert again.find_group(back, group).state == "CREATED"
    lease = again.core.cluster.leases.get(granted.lease_id)
    assert lease is not None
    assert lease.bundle is not None
    assert lease.bundle.index == 0
    assert again.find_group(back, pending).state == "PENDING"
    assert again.find_group(back, b"group%011d" % 3).state == "PENDING", "the devices are not given to another"
    again.say(back, m.RemoveGroup(9, group))
    again.serve()
    assert again.find_group(back, b"group%011d" % 3).state == "CREATED"


def test_a_group_whose_node_does_not_come_back_is_placed_anew_after_the_grace() -> None:
    world = World()
    world.agent(1, cpus=4)
    client = world.client()
    group = world.group(client, {"CPU": 2})
    again = World(journal=world.journal)
    back = again.client()
    again.agent(2, cpus=4)
    assert again.find_group(back, group).state == "PENDING"
    again.wait(11)
    assert again.find_group(back, group).nodes == [b"node0002"]


def test_bundles_go_where_their_labels_are() -> None:
    world = World()
    world.agent(1, cpus=4, labels={"zone": "a"})
    world.agent(2, cpus=4, labels={"zone": "b"})
    client = world.client()
    terms = [[LabelTerm("zone", "in", ["b"])], [LabelTerm("zone", "not in", ["b"])]]
    group = world.group(client, {"CPU": 1}, {"CPU": 1}, labels=terms)
    assert world.find_group(client, group).nodes == [b"node0002", b"node0001"]
    lost = world.group(client, {"CPU": 1}, number=2, labels=[[LabelTerm("zone", "in", ["c"])]])
    assert world.find_group(client, lost).state == "PENDING"
    assert world.state(client).groups[-1].reason == "bundle 0: no node has labels with zone in (c)"


@pytest.mark.parametrize(
    ("bundles", "more", "text"),
    [
        ([{"CPU": 1}], {"strategy": "SIDEWAYS"}, "is no strategy"),
        ([], {}, "1 to 1000 bundles"),
        ([{}], {}, "a bundle is empty"),
        ([{"GPU": 1.5}], {}, "above one, GPUs are whole"),
        ([{"CPU": 1}], {"labels": [[LabelTerm("a", "~")]]}, "no condition"),
    ],
)
def test_what_is_no_group_is_refused(bundles: list[dict[str, float]], more: dict[str, object], text: str) -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client()
    world.group(client, *bundles, **more)
    assert text in world.only(client, m.Failed).text
    assert world.core.statistics().groups == 0


def test_many_groups_that_wait_never_deadlock() -> None:
    """Sixty groups of four or five bundles, each more than half of the cluster, all get their turn, in order."""
    world = World()
    for number in (1, 2, 3):
        world.agent(number, cpus=4)
    client = world.client()
    waiting = [
        world.group(
            client, *({"CPU": 2} for _ in range(4 + number % 2)), number=number, strategy=("SPREAD", "PACK")[number % 2]
        )
        for number in range(60)
    ]
    while waiting:
        created = [group.spec.group_id for group in world.core.cluster.groups if group.state == "CREATED"]
        assert created == waiting[:1]
        world.say(client, m.RemoveGroup(9, waiting.pop(0)))
    assert cpus_free(world, client) == [4, 4, 4]


def test_what_an_unused_group_gives_back_is_used_at_once() -> None:
    world = World()
    world.agent(cpus=2)
    client = world.client()
    group = world.group(client, {"CPU": 2})
    world.demand(client, 1, CPU=1)
    assert world.granted(client) == []
    world.say(client, m.RemoveGroup(9, group))
    assert len(world.granted(client)) == 1

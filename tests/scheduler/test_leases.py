"""From a demand to a lease and back: events in, actions out."""

from __future__ import annotations

import random
import re

import msgspec
import pytest

from atoll.protocol import messages as m
from atoll.protocol.machine import Instant, Peer
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.nodes import Changes, Node, Tenant
from atoll.scheduler.core.starting import MAXIMUM_STARTED
from atoll.scheduler.core.supply import Wanted
from tests.scheduler.world import World, job_id, registration


def test_a_lease_is_placed_started_granted_returned_and_freed() -> None:
    world = World()
    agent, client = world.agent(cpus=2), world.client()
    world.demand(client, 1, CPU=1)
    start = world.only(agent, m.StartLease)
    assert start.job == start.holder == job_id(1)
    assert start.scheduling_class.resources == {"CPU": UNITS_PER_ONE}
    assert not start.dedicated
    assert world.heard(client, m.LeaseGranted) == [], "nobody is promised a worker that is not there"
    world.say(agent, m.LeaseStarted(start.lease_id, b"worker!!", "/run/w", 7))
    granted = world.only(client, m.LeaseGranted)
    assert (granted.demand_key, granted.worker_id, granted.address) == (1, b"worker!!", "/run/w")
    assert granted.node_name == "host-1"
    world.say(client, m.ReturnLease(granted.lease_id))
    assert world.only(agent, m.EndLease) == m.EndLease(granted.lease_id, False)
    assert world.state(client).nodes[0].resources_free["CPU"] == 1, "free only when the agent says so"
    world.say(agent, m.LeaseEnded(granted.lease_id))
    assert world.state(client).nodes[0].resources_free["CPU"] == 2


def test_a_demand_is_idempotent_and_counts_what_is_on_its_way() -> None:
    world = World()
    agent, client = world.agent(cpus=4), world.client()
    for _ in range(3):
        world.demand(client, 2)
    assert len(world.heard(agent, m.StartLease)) == 2
    world.demand(client, 3)
    assert len(world.heard(agent, m.StartLease)) == 1


def test_a_demand_that_is_withdrawn_ends_what_was_on_its_way() -> None:
    world = World()
    world.agent(cpus=4)
    client = world.client()
    world.demand(client, 2)
    world.demand(client, 0)
    assert world.granted(client) == []
    assert world.state(client).nodes[0].resources_free["CPU"] == 4


def test_a_class_that_does_not_fit_does_not_block_another() -> None:
    world = World()
    world.agent(cpus=2)
    client = world.client()
    world.demand(client, 1, key=1, CPU=1)
    world.demand(client, 1, key=2, CPU=2)
    world.demand(client, 1, key=3, CPU=1)
    assert [granted.demand_key for granted in world.granted(client)] == [1, 3]
    waiting = world.state(client).demands
    assert [demand.resources for demand in waiting] == [{"CPU": 2}]
    assert waiting[0].reason.startswith("host-1: 2 CPU short (2 of 2 CPU in use)")


def test_higher_priority_goes_first() -> None:
    world = World()
    world.agent(cpus=1)
    client = world.client()
    world.demand(client, 1, key=1, CPU=1)
    first = world.granted(client)[0]
    world.demand(client, 1, key=2, CPU=1)
    world.demand(client, 1, key=3, CPU=1, priority=5)
    world.say(client, m.ReturnLease(first.lease_id))
    assert [granted.demand_key for granted in world.granted(client)] == [3]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"GPU": 4}, r"no node has 4 GPU; the largest has 2 \(host-1\)"),
        ({"CPU": 64}, r"no node has 64 CPU; the largest has 2 \(host-1\)"),
        ({"CPU": 1, "tpu": 1}, r"no node has 1 tpu; none has any tpu"),
    ],
)
def test_what_no_node_can_ever_give_is_refused_at_once(wanted: dict[str, float], text: str) -> None:
    world = World()
    world.agent(cpus=2, gpus=2)
    client = world.client()
    world.demand(client, 1, **wanted)
    refused = world.only(client, m.DemandRefused)
    assert refused.kind == "TaskUnschedulableError"
    assert re.search(text, refused.text), refused.text
    assert world.core.statistics().demands == 0


def test_where_there_is_no_gpu_at_all_it_is_said_what_to_do() -> None:
    world = World()
    world.agent(cpus=2)
    client = world.client()
    world.demand(client, 1, GPU=1)
    text = world.only(client, m.DemandRefused).text
    assert text.startswith("no node has 1 GPU; none has any GPU. `atoll doctor`")
    assert "`ATOLL_SIMULATED_GPUS=1 atoll up`" in text
    assert "\n" not in text


def test_without_a_node_a_demand_waits_ten_seconds() -> None:
    world = World()
    client = world.client()
    world.demand(client, 1)
    world.wait(9.9)
    assert world.heard(client, m.DemandRefused) == []
    world.agent()
    assert len(world.granted(client)) == 1


def test_without_a_node_for_ten_seconds_a_demand_fails_with_the_cause() -> None:
    world = World()
    client = world.client()
    world.demand(client, 1)
    world.wait(10.1)
    assert "no node" in world.only(client, m.DemandRefused).text
    assert world.only(client, m.Failed).kind == "ClusterLostError", "the job's registration"
    world.demand(client, 1, key=2)
    world.wait(0)
    assert "no node" in world.only(client, m.DemandRefused).text, "and so does a later one, at once"


@pytest.mark.parametrize(
    "wrong", [{"CPU": -1.0}, {"GPU": 1.5}, {"CPU": 1.0, "strategy": "SIDEWAYS"}, {"CPU": 1.0, "environment": "?"}]
)
def test_a_wish_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    world = World()
    world.agent(gpus=2)
    client = world.client()
    environment = wrong.pop("environment", None)
    shape = world.shape(**wrong)
    if environment:
        shape = msgspec.structs.replace(shape, environment="unknown")
    world.say(client, m.SetDemand(1, shape, 1))
    assert world.only(client, m.DemandRefused).kind in {"ProtocolError", "RuntimeEnvSetupError"}
    assert world.core.statistics().demands == 0


def test_r1_a_worker_that_dies_is_told_to_the_holder_at_once() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.demand(client, 1)
    granted = world.granted(client)[0]
    world.say(agent, m.LeaseEnded(granted.lease_id, "WorkerCrashedError", "killed by signal 9 (SIGKILL)"))
    lost = world.only(client, m.LeaseLost)
    assert lost == m.LeaseLost(granted.lease_id, "WorkerCrashedError", "killed by signal 9 (SIGKILL)")


def test_a_start_that_fails_is_tried_three_times_and_an_environment_that_fails_once() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.demand(client, 1)
    world.serve(failing=True)
    assert world.only(client, m.DemandRefused).kind == "WorkerCrashedError"
    world.demand(client, 1, key=2)
    start = world.heard(agent, m.StartLease)[-1]
    world.say(agent, m.LeaseFailed(start.lease_id, "RuntimeEnvSetupError", "no such interpreter"))
    assert world.only(client, m.DemandRefused) == m.DemandRefused(2, "RuntimeEnvSetupError", "no such interpreter")


def test_a_holder_that_dies_gives_everything_back() -> None:
    world = World()
    agent, client, other = world.agent(cpus=2), world.client(1), world.client(2)
    world.demand(client, 5)
    world.demand(other, 1)
    world.serve()
    world.lose(client)
    ended = [message for message in world.inbox[agent] if isinstance(message, m.EndLease)]
    assert all(message.kill for message in ended), "it may have died in the middle of a task"
    assert world.only(agent, m.JobEnded).job == job_id(1)
    world.serve()
    state = world.state(other)
    assert [job.job for job in state.jobs] == [job_id(2).hex()]
    assert state.demands == []
    assert state.nodes[0].resources_free["CPU"] == 1


def test_a_node_that_dies_takes_its_leases_with_it() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.demand(client, 3)
    assert len(world.granted(client)) == 2
    world.lose(agent)
    assert [lost.kind for lost in world.heard(client, m.LeaseLost)] == ["WorkerCrashedError"] * 2
    world.agent(2)
    assert len(world.granted(client)) == 1, "what it still wanted"


def test_r20_a_task_that_waits_lends_its_cpu_and_takes_it_back() -> None:
    world = World()
    world.agent(cpus=1)
    client = world.client()
    world.demand(client, 1)
    outer = world.granted(client)[0]
    worker = world.connect("worker", outer.worker_id)
    world.demand(worker, 1, key=7)
    assert world.granted(worker) == []
    world.say(worker, m.TaskBlocked(outer.lease_id))
    inner = world.granted(worker)[0]
    assert inner.demand_key == 7
    state = world.state(client)
    assert {lease.job for lease in state.leases} == {job_id(1).hex()}, "nested work is its job's"
    world.say(worker, m.TaskUnblocked(outer.lease_id))
    assert world.state(client).nodes[0].resources_free["CPU"] == -1, "it goes on at once"
    world.say(worker, m.ReturnLease(inner.lease_id))
    world.serve()
    world.say(client, m.ReturnLease(outer.lease_id))
    world.serve()
    assert world.state(client).nodes[0].resources_free["CPU"] == 1


def test_a_worker_that_dies_loses_what_it_held() -> None:
    world = World()
    world.agent(cpus=2)
    client = world.client()
    world.demand(client, 1)
    outer = world.granted(client)[0]
    worker = world.connect("worker", outer.worker_id)
    world.demand(worker, 1, key=7)
    assert len(world.granted(worker)) == 1
    world.lose(worker)
    world.serve()
    assert world.state(client).nodes[0].resources_free["CPU"] == 1


def test_nobody_returns_or_blocks_what_belongs_to_another() -> None:
    world = World()
    agent, client, other = world.agent(), world.client(1), world.client(2)
    world.demand(client, 1)
    granted = world.granted(client)[0]
    world.say(other, m.ReturnLease(granted.lease_id))
    world.say(other, m.TaskBlocked(granted.lease_id))
    stranger = world.connect("worker", b"stranger")
    world.say(stranger, m.TaskBlocked(granted.lease_id))
    second = world.agent(2)
    world.say(second, m.LeaseEnded(granted.lease_id))
    assert world.heard(agent, m.EndLease) == []
    assert len(world.state(client).leases) == 1
    assert not world.state(client).leases[0].blocked


def test_zero_resources_do_not_fork_without_end() -> None:
    world = World()
    agent, client = world.agent(cpus=2), world.client()
    world.say(client, m.SetDemand(1, world.shape(), 10**9))
    assert len(world.heard(agent, m.StartLease)) == 256
    assert "most there are" in world.state(client).demands[0].reason


# ------------------------------------------------------------------------------------------------------- devices


def test_r15_whole_devices_have_one_holder_and_fractions_share_one() -> None:
    world = World()
    world.agent(cpus=8, gpus=2)
    client = world.client()
    world.demand(client, 2, key=1, GPU=0.5)
    halves = world.granted(client)
    assert [[(share.uuid, share.units) for share in half.devices] for half in halves] == [
        [("SIM-GPU-0", 5000)],
        [("SIM-GPU-0", 5000)],
    ]
    assert all(share.simulated for half in halves for share in half.devices)
    world.demand(client, 1, key=2, GPU=1)
    whole = world.granted(client)[0]
    assert [(share.uuid, share.index, share.units) for share in whole.devices] == [("SIM-GPU-1", 1, 10_000)]
    world.demand(client, 1, key=3, GPU=1)
    world.say(client, m.ReturnLease(halves[0].lease_id))
    assert world.granted(client) == [], "half a device is no whole one"
    reason = world.state(client).demands[0].reason
    assert reason.startswith("host-1: ")
    assert "GPU short" in reason
    world.say(client, m.ReturnLease(halves[1].lease_id))
    assert [share.uuid for share in world.granted(client)[0].devices] == ["SIM-GPU-0"]


def test_r15_ten_thousand_steps_never_give_a_whole_device_to_two() -> None:
    chance = random.Random(15)
    node = Node(registration(1, cpus=16, gpus=4), Peer(1), 1, Instant(0.0), Changes())
    held: dict[int, dict[str, int]] = {}
    given = 0
    for lease_id in range(10_000):
        units = chance.choice([1_000, 2_500, 5_000, 7_000, 10_000, 20_000, 40_000])
        if node.fits(Wanted({"GPU": units})):
            tenant = Tenant(lease_id, Job(b"", Instant(0.0)), "")
            node.take(tenant, Wanted({"GPU": units}))
            held[lease_id] = {share.uuid: share.units for share in tenant.shares}
            assert sum(held[lease_id].values()) == units
            given += 1
        if held and chance.random() < 0.6:
            gone = chance.choice(list(held))
            node.release(gone)
            del held[gone]
        node.check_invariants()
        for uuid in node.devices:
            parts = [parts[uuid] for parts in held.values() if uuid in parts]
            assert sum(parts) <= 10_000
            assert len(parts) == 1 or 10_000 not in parts
    assert given > 2_000


def test_two_whole_devices_and_the_state_says_who_holds_them() -> None:
    world = World()
    world.agent(cpus=8, gpus=3)
    client = world.client()
    world.demand(client, 1, GPU=2, label="train")  # type: ignore[arg-type]
    granted = world.granted(client)[0]
    assert [share.uuid for share in granted.devices] == ["SIM-GPU-0", "SIM-GPU-1"]
    state = world.state(client)
    assert state.simulated_devices
    assert [(device.held, device.holders) for device in state.nodes[0].devices] == [
        (1, ["train (notebook-1.ipynb)"]),
        (1, ["train (notebook-1.ipynb)"]),
        (0, []),
    ]


# ------------------------------------------------------------------------------------------------------- placement


def test_hybrid_packs_until_half_used_then_spreads() -> None:
    world = World()
    agents = [world.agent(1, cpus=4), world.agent(2, cpus=4)]
    client = world.client()
    world.demand(client, 6)
    counts = [len(world.heard(agent, m.StartLease)) for agent in agents]
    assert counts == [3, 3]
    placed = [action for action in world.actions if isinstance(getattr(action, "message", None), m.StartLease)]
    assert [agents.index(action.peer) for action in placed] == [0, 0, 1, 1, 0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("strategy", "counts"), [("SPREAD", [2, 2]), ("PACK", [4, 0])])
def test_a_strategy_can_be_asked_for(strategy: str, counts: list[int]) -> None:
    world = World()
    agents = [world.agent(1, cpus=4), world.agent(2, cpus=4)]
    client = world.client()
    world.demand(client, 4, CPU=1, strategy=strategy)  # type: ignore[arg-type]
    assert [len(world.heard(agent, m.StartLease)) for agent in agents] == counts


def test_a_class_can_name_its_node() -> None:
    world = World()
    agents = [world.agent(1), world.agent(2)]
    client = world.client()
    world.demand(client, 1, CPU=1, node=b"node0002".hex())  # type: ignore[arg-type]
    assert [len(world.heard(agent, m.StartLease)) for agent in agents] == [0, 1]
    world.demand(client, 1, key=2, CPU=1, node=b"node0009".hex())  # type: ignore[arg-type]
    assert "not in the cluster" in world.only(client, m.DemandRefused).text


# -------------------------------------------------------------------------------------------------------- fairness


def test_a_job_that_waits_gets_its_share_of_what_another_holds() -> None:
    world = World()
    world.agent(cpus=4)
    greedy, modest = world.client(1), world.client(2)
    world.demand(greedy, 100)
    assert len(world.granted(greedy)) == 4
    world.demand(modest, 100)
    recalled = world.heard(greedy, m.LeaseRecalled)
    assert len(recalled) == 2, "half of four, and no more"
    assert "recalled from others" in world.state(modest).demands[0].reason
    for message in recalled:
        world.say(greedy, m.ReturnLease(message.lease_id))
    assert len(world.granted(modest)) == 2
    world.wait(1)
    assert world.heard(greedy, m.LeaseRecalled) == []
    assert world.heard(modest, m.LeaseRecalled) == [], "it settles"


def test_nothing_is_recalled_for_what_is_being_given_back_anyway() -> None:
    world = World()
    world.agent(cpus=4)
    greedy, modest = world.client(1), world.client(2)
    world.demand(greedy, 4)
    granted = world.granted(greedy)
    world.say(greedy, m.ReturnLease(granted[0].lease_id))
    world.demand(modest, 1)
    assert world.heard(greedy, m.LeaseRecalled) == []
    world.demand(modest, 2)
    assert len(world.heard(greedy, m.LeaseRecalled)) == 1


def test_with_one_worker_two_jobs_take_turns() -> None:
    world = World()
    world.agent(cpus=1)
    clients = [world.client(1), world.client(2)]
    held: dict[int, int] = {}
    turns = []
    for client in clients:
        world.demand(client, 1)
    for _ in range(40):
        for client in clients:
            for granted in world.granted(client):
                held[granted.lease_id] = client
                turns.append(client)
            for message in world.heard(client, m.LeaseRecalled):
                world.say(client, m.ReturnLease(message.lease_id))
                world.demand(client, 1)
        world.wait(0.03)
    assert 8 < len(turns) < 40, "not at every moment"
    assert turns[:6] == [*clients, *clients, *clients]


def test_within_a_job_one_class_does_not_starve_another() -> None:
    world = World()
    world.agent(cpus=2)
    client = world.client()
    world.demand(client, 1000, key=1, CPU=1, label="tasks")  # type: ignore[arg-type]
    assert len(world.granted(client)) == 2
    world.demand(client, 1, key=2, CPU=1, label="a cell")  # type: ignore[arg-type]
    assert world.heard(client, m.LeaseRecalled) == [], "who has just begun may work for a moment"
    world.wait(0.06)
    recalled = world.only(client, m.LeaseRecalled)
    world.say(client, m.ReturnLease(recalled.lease_id))
    assert [granted.demand_key for granted in world.granted(client)] == [2]
    world.wait(1)
    assert world.heard(client, m.LeaseRecalled) == []


def test_a_large_cluster_is_filled_in_turns() -> None:
    """Nobody waits for a message to be read while thousands of leases are decided."""
    world = World()
    agents = [world.agent(number, cpus=200) for number in range(1, 8)]
    client = world.client()
    world.demand(client, 1200)
    started = [len(world.heard(agent, m.StartLease)) for agent in agents]
    assert sum(started) == MAXIMUM_STARTED
    world.wait(0)
    assert sum(started) + sum(len(world.heard(agent, m.StartLease)) for agent in agents) == 1200

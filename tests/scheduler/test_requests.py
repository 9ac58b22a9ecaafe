"""What can be asked for: models and memory of devices, choices, deadlines, and work that may be preempted."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.protocol import messages as m
from atoll.protocol.machine import Peer
from atoll.protocol.values import Choice, Device, DeviceSample, LabelTerm, NodeSample
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.policy import preemption
from atoll.scheduler.policy.devices import is_of_type
from tests.scheduler.world import World

GIB = 2**30


def gpus(*models: tuple[str, int]) -> list[Device]:
    return [Device(f"GPU-{index}", index, model, size * GIB) for index, (model, size) in enumerate(models)]


def placed(world: World, client: Peer, **wanted: Any) -> list[str]:
    """Return the devices of one lease of a class, or what was said instead."""
    world.demand(client, 1, key=99, **wanted)
    refused = world.heard(client, m.DemandRefused)
    granted = world.granted(client)
    if refused:
        return [refused[0].text]
    return [f"{share.uuid}:{share.units}" for share in granted[0].devices] if granted else []


def test_device_memory_is_a_share_as_large_as_the_device_needs() -> None:
    world = World()
    world.agent(cpus=8, devices=gpus(("A10", 24), ("A100", 80)))
    client = world.client()
    assert placed(world, client, gpu_memory=20 * GIB) == ["GPU-0:8334"]
    assert placed(world, client, gpu_memory=20 * GIB) == ["GPU-1:2500"], "there is no room left on the first"
    assert placed(world, client, gpu_memory=60 * GIB) == ["GPU-1:7500"]
    assert placed(world, client, gpu_memory=8 * GIB) == []
    reason = world.state(client).demands[0].reason
    assert reason.startswith("host-1: 4.002 GiB GPU memory short, held by task of ")
    refused = placed(world, client, gpu_memory=100 * GIB)
    assert refused == ["no GPU has 100 GiB of memory; the largest has 80 GiB (host-1)"]


def test_whole_devices_with_at_least_so_much_memory() -> None:
    world = World()
    world.agent(cpus=8, devices=gpus(("A10", 24), ("A100", 80), ("A100", 80)))
    client = world.client()
    assert placed(world, client, GPU=2, gpu_memory=40 * GIB) == ["GPU-1:10000", "GPU-2:10000"]


WHOLE = ({"GPU": 1}, {"GPU": 1, "gpu_memory": 2 * GIB}, {"auto": ["gpu_memory"], "code": b"unknown"})
PART = ({"GPU": 0.25}, {"gpu_memory": 2 * GIB})


@pytest.mark.parametrize("first", [*WHOLE, *PART])
@pytest.mark.parametrize("second", [*WHOLE, *PART])
def test_two_share_a_gpu_that_both_would_fit_on_only_if_both_have_asked_for_a_part(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Whoever holds a whole GPU may use all of it at any moment, however little it uses now."""
    world = World()
    agent = world.agent(cpus=8, devices=gpus(("A100", 80)))
    client, other = world.client(1), world.client(2)
    assert placed(world, client, **first)
    world.say(agent, m.NodeSampled(NodeSample(0.0, 0, 0, 0, 0, [DeviceSample("GPU-0", 0.0, GIB)], [], [])))
    shared = placed(world, other, **second)
    assert bool(shared) == (first in PART and second in PART)


@pytest.mark.parametrize(
    ("model", "kind", "fits"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100", True),
        ("NVIDIA A100-SXM4-80GB", "a100-80g", True),
        ("NVIDIA A100-SXM4-80GB", "A10", False),
        ("NVIDIA A100-SXM4-40GB", "A100-80G", False),
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("Tesla V100-SXM2-16GB", "V100", True),
    ],
)
def test_models(model: str, kind: str, fits: bool) -> None:
    assert is_of_type(model, kind) == fits


def test_a_device_of_either_model_the_first_that_is_free() -> None:
    world = World()
    world.agent(1, cpus=8, devices=gpus(("NVIDIA A10", 24), ("NVIDIA H100", 80), ("NVIDIA T4", 16)))
    client = world.client()
    either = {"GPU": 1, "device_types": ["H100", "T4"]}
    assert placed(world, client, **either) == ["GPU-1:10000"]
    assert placed(world, client, **either) == ["GPU-2:10000"]
    assert placed(world, client, **either) == [], "the third is of another model, and free"
    assert placed(world, client, GPU=1, device_types=["L4"]) == [
        "no node has a GPU of type L4; there are: NVIDIA A10, NVIDIA H100, NVIDIA T4"
    ]


def test_memory_that_others_use_is_not_given() -> None:
    """A colleague's job on the first device means the second one."""
    world = World()
    agent, client = world.agent(cpus=8, devices=gpus(("A10", 24), ("A10", 24))), world.client()
    sample = NodeSample(0, 0, 0, 0, 0, [DeviceSample("GPU-0", 90, 18 * GIB, 18 * GIB)], [], [])
    world.say(agent, m.NodeSampled(sample))
    assert placed(world, client, gpu_memory=4 * GIB) == ["GPU-0:1667"], "there is room beside it"
    assert placed(world, client, GPU=1) == ["GPU-1:10000"]
    assert placed(world, client, gpu_memory=4 * GIB) == []
    gone = NodeSample(0, 0, 0, 0, 0, [DeviceSample("GPU-0", 0, 0, 0)], [], [])
    world.say(agent, m.NodeSampled(gone))
    assert [share.uuid for share in world.granted(client)[0].devices] == ["GPU-0"]


# --------------------------------------------------------------------------------------------------------- choices


def test_a_device_now_or_else_eight_cpus() -> None:
    world = World()
    agent, client = world.agent(cpus=10, gpus=1), world.client()
    choices = [Choice({"CPU": 8 * UNITS_PER_ONE})]
    world.demand(client, 3, GPU=1, CPU=1, choices=choices)  # type: ignore[arg-type]
    starts = world.heard(agent, m.StartLease)
    assert [start.scheduling_class.resources for start in starts] == [
        {"GPU": UNITS_PER_ONE, "CPU": UNITS_PER_ONE},
        {"CPU": 8 * UNITS_PER_ONE},
    ]
    assert all(not start.scheduling_class.choices for start in starts), "what is leased is one of them"


def test_choices_by_labels_are_tried_in_order_and_all_must_fail() -> None:
    world = World()
    world.agent(1, cpus=2, labels={"zone": "b"})
    client = world.client()
    zone_a, zone_b = [LabelTerm("zone", "in", ["a"])], [LabelTerm("zone", "in", ["b"])]
    cpu = {"CPU": UNITS_PER_ONE}
    world.demand(client, 1, CPU=1, labels=zone_a, choices=[Choice(cpu, zone_b)])  # type: ignore[arg-type]
    assert len(world.granted(client)) == 1
    world.demand(client, 1, key=2, CPU=1, labels=zone_a, choices=[Choice({"CPU": 10**6})])  # type: ignore[arg-type]
    assert world.only(client, m.DemandRefused).text == (
        "no node has labels with zone in (a); and instead: no node has 100 CPU; the largest has 2 (host-1)"
    )


# ------------------------------------------------------------------------------------------------------- deadlines


def test_what_is_due_first_goes_first_within_a_job() -> None:
    world = World()
    world.agent(cpus=1)
    client = world.client()
    world.demand(client, 1, key=1)
    first = world.granted(client)[0]
    world.demand(client, 1, key=2)
    world.demand(client, 1, key=3, CPU=1, deadline_s=60.0)
    world.wait(1)
    world.demand(client, 1, key=4, CPU=1, deadline_s=5.0)
    order = []
    for _ in range(3):
        world.say(client, m.ReturnLease(first.lease_id))
        first = world.granted(client)[0]
        order.append(first.demand_key)
    assert order == [4, 3, 2]


def test_a_deadline_buys_nothing_from_another_job() -> None:
    world = World()
    world.agent(cpus=4)
    greedy, other = world.client(1), world.client(2)
    world.demand(greedy, 4)
    held = world.granted(greedy)
    world.demand(greedy, 1, key=2, CPU=1, deadline_s=0.1)
    world.demand(other, 1)
    world.say(greedy, m.ReturnLease(held[0].lease_id))
    assert len(world.granted(other)) == 1


# ------------------------------------------------------------------------------------------------------ preemption


def test_opportunistic_work_takes_what_is_left_and_gives_way() -> None:
    world = World()
    world.agent(cpus=4)
    client, other = world.client(1), world.client(2)
    world.demand(client, 9, CPU=1, preemptible=True)
    kept = world.granted(client)
    assert len(kept) == 4
    world.wait(1)
    world.demand(other, 1, CPU=2)
    lost = world.heard(client, m.LeaseLost)
    assert {loss.kind for loss in lost} == {m.PREEMPTED}
    assert len(lost) == 2, "as few as can be"
    assert {loss.lease_id for loss in lost} == set(sorted(lease.lease_id for lease in kept)[2:]), "the youngest"
    world.serve()
    assert len(world.granted(other)) == 1
    assert world.granted(client) == [], "what is free now was taken by who it was made free for"


def test_nothing_is_preempted_in_vain_nor_twice() -> None:
    world = World()
    world.agent(cpus=4)
    client, other = world.client(1), world.client(2)
    world.demand(client, 2, CPU=1, preemptible=True)
    world.demand(other, 1, CPU=1)
    assert len(world.granted(client)) == 2
    world.granted(other)
    world.demand(other, 1, key=2, CPU=4)
    assert world.heard(client, m.LeaseLost) == [], "it would not fit even so"
    world.demand(other, 1, key=3, CPU=2)
    assert len(world.heard(client, m.LeaseLost)) == 1
    world.wait(1)
    assert world.heard(client, m.LeaseLost) == [], "one is on its way"


def test_opportunistic_work_comes_after_everything_else() -> None:
    world = World()
    world.agent(cpus=1)
    client = world.client()
    world.demand(client, 1, key=1)
    first = world.granted(client)[0]
    world.demand(client, 1, key=2, CPU=1, preemptible=True, priority=1000)
    world.demand(client, 1, key=3, CPU=1)
    world.say(client, m.ReturnLease(first.lease_id))
    assert [granted.demand_key for granted in world.granted(client)] == [3]


def test_the_choice_of_whom_to_preempt() -> None:
    offers = [preemption.Offer(number, number % 2, float(number)) for number in range(6)]
    sizes = {number: number + 1 for number in range(6)}

    def frees(wanted: int) -> Any:
        return lambda ids: sum(sizes[each] for each in ids) >= wanted

    assert preemption.choose(offers, frees(1)) == [4], "of the lowest priority the youngest, and one is enough"
    assert preemption.choose(offers, frees(6)) == [5], "one that is enough rather than two that are cheaper"
    assert preemption.choose(offers, frees(8)) == [4, 2]
    assert preemption.choose(offers, frees(21)) == [4, 2, 0, 5, 3, 1]
    assert preemption.choose(offers, frees(22)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 10**9},
        {"deadline_s": float("nan")},
        {"choices": [Choice({"GPU": 15_000})]},
        {"choices": [Choice({"CPU": 1})] * 17},
        {"labels": [LabelTerm("", "in")]},
        {"GPU": 0.5, "gpu_memory": 2.0},
    ],
)
def test_what_is_no_request_is_refused(wrong: dict[str, Any]) -> None:
    world = World()
    world.agent(gpus=2)
    client = world.client()
    world.demand(client, 1, CPU=1, **wrong)
    assert world.only(client, m.DemandRefused).kind == "ProtocolError"

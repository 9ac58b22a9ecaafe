"""Devices as the scheduler sees them: what is in use by others, quarantined, divided, or near each other."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.protocol import messages as m
from atoll.protocol.machine import Peer
from atoll.protocol.values import Device, DeviceSample, NodeSample, Outsider
from tests.scheduler.world import World, devices

GIB = 2**30
A100 = "NVIDIA A100-SXM4-80GB"


def say_sample(world: World, agent: Peer, *samples: DeviceSample) -> None:
    world.say(agent, m.NodeSampled(NodeSample(0, 0, 0, 0, 0, list(samples), [], [])))


def held(uuid: str, size: int) -> DeviceSample:
    return DeviceSample(uuid, 90, size, size, [Outsider(123, size, "guest")])


def placed(world: World, client: Peer, key: int = 99, **wanted: Any) -> list[str]:
    world.demand(client, 1, key=key, **wanted)
    granted = world.granted(client)
    return [share.uuid for share in granted[0].devices] if granted else []


def test_a_colleagues_job_on_the_first_device_means_the_second() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=2), world.client()
    say_sample(world, agent, held("SIM-GPU-0", 8 * GIB))
    assert placed(world, client, GPU=1) == ["SIM-GPU-1"]
    assert placed(world, client, 100, GPU=1) == []
    (waiting,) = world.state(client).demands
    text = "GPU 0: 8 GiB of 16 GiB in use by process 123 of guest outside of Atoll"
    assert waiting.reason.startswith(f"host-1: 1 GPU short (1 of 2 GPU in use); {text}, held by task of ")
    say_sample(world, agent, DeviceSample("SIM-GPU-0", 0, 0))
    assert [share.uuid for granted in world.granted(client) for share in granted.devices] == ["SIM-GPU-0"]


def test_the_rest_of_a_device_that_others_use_may_be_shared() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=1), world.client()
    say_sample(world, agent, held("SIM-GPU-0", 8 * GIB))
    assert placed(world, client, gpu_memory=7 * GIB) == ["SIM-GPU-0"]
    assert placed(world, client, 100, gpu_memory=2 * GIB) == []


def test_a_device_that_is_kept_away_is_given_to_nobody_and_the_reason_says_why() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=1), world.client()
    trouble = "quarantined after 3 faults, the last: XID 79"
    say_sample(world, agent, DeviceSample("SIM-GPU-0", 0, 0, trouble=trouble, quarantined=True))
    assert placed(world, client, GPU=0.5) == []
    assert (
        world.state(client)
        .demands[0]
        .reason.endswith(f"GPU 0 is {trouble} (`atoll gpu release SIM-GPU-0` gives it again)")
    )
    device = world.state(client).nodes[0].devices[0]
    assert (device.trouble, device.quarantined) == (trouble, True)
    say_sample(world, agent, DeviceSample("SIM-GPU-0", 0, 0))
    assert world.granted(client)


def test_a_lease_whose_devices_were_taken_goes_back_to_the_queue_without_counting_as_a_failure() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=1), world.client()
    world.demand(client, 1, GPU=1)
    for _try in range(5):
        start = world.heard(agent, m.StartLease)[-1]
        say_sample(world, agent, held("SIM-GPU-0", 8 * GIB))
        world.say(agent, m.LeaseFailed(start.lease_id, m.DEVICES_TAKEN, "GPU 0 is taken"))
        assert world.heard(agent, m.StartLease) == [], "it is known to be taken"
        say_sample(world, agent, DeviceSample("SIM-GPU-0", 0, 0))
    assert world.heard(client, m.DemandRefused) == []
    assert len(world.granted(client)) == 1


def test_a_bundle_sees_what_happens_to_its_device() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=1), world.client()
    group = world.group(client, {"GPU": 1})
    say_sample(world, agent, held("SIM-GPU-0", 8 * GIB))
    world.demand(client, 1, key=5, GPU=1, group=group)  # type: ignore[arg-type]
    assert world.granted(client) == []
    say_sample(world, agent, DeviceSample("SIM-GPU-0", 0, 0))
    assert len(world.granted(client)) == 1


def test_a_quarantine_is_lifted_by_uuid_or_number() -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=2), world.client()
    bad = DeviceSample("SIM-GPU-1", 0, 0, trouble="quarantined: so", quarantined=True)
    for name in ("SIM-GPU-1", "1", "host-1:1"):
        say_sample(world, agent, bad)
        world.say(client, m.ReleaseDevice(7, name))
        assert world.heard(client, m.Done)
        assert world.heard(agent, m.ReleaseDevice) == [m.ReleaseDevice(0, "SIM-GPU-1")]
    for name, said in (
        ("SIM-GPU-0", "is not quarantined"),
        ("SIM", "2 GPUs are meant by 'SIM'; there are: SIM-GPU-0 (host-1:0), SIM-GPU-1 (host-1:1)"),
        ("7", "no GPUs are meant"),
        ("", "no GPUs are meant"),
    ):
        world.say(client, m.ReleaseDevice(8, name))
        (failed,) = world.heard(client, m.Failed)
        assert said in failed.text


def test_a_device_of_two_nodes_of_one_host_is_given_again_on_both() -> None:
    world = World()
    agents, client = [world.agent(number, gpus=1) for number in (1, 2)], world.client()
    for agent in agents:
        say_sample(world, agent, DeviceSample("SIM-GPU-0", 0, 0, trouble="quarantined: so", quarantined=True))
    assert placed(world, client, GPU=1) == []
    world.say(client, m.ReleaseDevice(7, "SIM-GPU-0"))
    assert world.heard(client, m.Done)
    assert len(world.granted(client)) == 1, "what waits for it gets it at once"
    assert [world.heard(agent, m.ReleaseDevice) for agent in agents] == [[m.ReleaseDevice(0, "SIM-GPU-0")]] * 2


# ---------------------------------------------------------------------------------------------- parts of devices


def divided_box() -> list[Device]:
    part = [Device(f"MIG-{n}", n + 1, f"{A100} MIG 1g.10gb", 10 * GIB, parent="GPU-1") for n in range(2)]
    return [Device("GPU-0", 0, A100, 80 * GIB), *part]


@pytest.mark.parametrize(
    ("wanted", "uuids"),
    [
        ({"GPU": 1}, ["GPU-0"]),
        ({"GPU": 1, "device_types": ["1g.10gb"]}, ["MIG-0"]),
        ({"GPU": 0.5, "device_types": ["A100-1g.10gb"]}, ["MIG-0"]),
        ({"gpu_memory": 8 * GIB}, ["MIG-0"]),
    ],
)
def test_a_part_of_a_device_is_given_to_who_asks_for_one(wanted: dict[str, Any], uuids: list[str]) -> None:
    world = World()
    world.agent(cpus=4, devices=divided_box())
    client = world.client()
    if "gpu_memory" in wanted:
        placed(world, client, 98, GPU=1)
    assert placed(world, client, **wanted) == uuids


def test_parts_serve_plain_requests_only_where_there_is_nothing_else_and_never_several_at_once() -> None:
    world = World()
    world.agent(cpus=4, devices=divided_box()[1:])
    client = world.client()
    assert placed(world, client, GPU=1) == ["MIG-0"]
    world.demand(client, 1, key=100, GPU=2)
    assert world.heard(client, m.DemandRefused)


def test_several_devices_of_one_request_are_near_each_other() -> None:
    box = devices(4)
    for one, other in ((0, 2), (1, 3)):
        box[one].distances[box[other].uuid] = box[other].distances[box[one].uuid] = 6
    world = World()
    world.agent(cpus=4, devices=box)
    client = world.client()
    assert placed(world, client, GPU=2) == ["SIM-GPU-0", "SIM-GPU-2"]
    assert placed(world, client, 100, GPU=2) == ["SIM-GPU-1", "SIM-GPU-3"]

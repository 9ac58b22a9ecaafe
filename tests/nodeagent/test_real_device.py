"""A real NVIDIA device: what the driver tells of it, and that it is given again only when its memory is free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.nodeagent.nvml import NvmlProvider
from atoll.protocol.messages import EndLease, LeaseEnded, NodeSampled
from atoll.protocol.values import DeviceShare
from tests.nodeagent.running import RunningAgent, eventually

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="there is no NVIDIA device here"),
]
GIB = 2**30


def test_the_driver_tells_of_its_devices() -> None:
    provider = NvmlProvider()
    try:
        device = provider.devices()[0]
        assert device.uuid.startswith("GPU-")
        assert not device.simulated
        reading = provider.read(device.uuid)
        assert reading is not None
        assert 0 <= reading.used_bytes < device.memory_bytes
        assert 0.0 <= reading.use_percent <= 100.0
        assert provider.read("GPU-of-another-node") is None
    finally:
        provider.close()


@pytest.mark.processes
def test_r14_a_device_is_free_again_only_when_its_memory_is(start_agent: Callable[..., RunningAgent]) -> None:
    agent = start_agent(ATOLL_SIMULATED_GPUS="0")
    device = agent.registered.devices[0]
    library_path = {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
    agent.define(variables={"PATH": os.environ["PATH"], "HOME": "/"} | library_path)
    provider = NvmlProvider()
    try:
        before = provider.read(device.uuid)
        assert before is not None
        path = agent.directory / "cuda"
        started = agent.lease(f"cuda {path} {4 * GIB}", devices=[DeviceShare(device.uuid, device.index, 10_000)])
        eventually(path.exists, 30.0, "the worker has memory of the device")
        assert path.read_text() == "1 visible"
        during = provider.read(device.uuid)
        assert during is not None
        assert during.used_bytes - before.used_bytes >= 4 * GIB
        deadline = time.monotonic() + 5.0
        while agent.scheduler.expect(NodeSampled).sample.devices[0].memory_used_bytes < 4 * GIB:
            assert time.monotonic() < deadline, "the samples do not show the memory"
        agent.scheduler.send(EndLease(started.lease_id, kill=False))
        agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id, kind="")
        after = provider.read(device.uuid)
        assert after is not None
        assert after.used_bytes - before.used_bytes <= 64 * 2**20
    finally:
        provider.close()

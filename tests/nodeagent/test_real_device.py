"""A real NVIDIA device: what the driver tells of it, and that it is given again only when its memory is free."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.nodeagent.checkpoints import DriverCheckpoints
from atoll.nodeagent.nvml import NvmlProvider
from atoll.protocol.messages import EndLease, LeaseEnded, NodeSampled
from atoll.protocol.values import DeviceShare
from tests.nodeagent.running import RunningAgent
from tests.patience import eventually

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
        eventually(path.exists, "the worker has memory of the device")
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


HOLDER = """
import ctypes, hashlib, sys
cuda = ctypes.CDLL("libcuda.so.1")
size = int(sys.argv[1])
def check(status):
    assert status == 0, status
check(cuda.cuInit(0))
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size)))
block = 1 << 26
for number in range(size // block):
    data = hashlib.shake_256(str(number).encode()).digest(1 << 16) * (block >> 16)
    check(cuda.cuMemcpyHtoD_v2(ctypes.c_uint64(memory.value + number * block), data, ctypes.c_size_t(block)))
print("ready", flush=True)
for line in sys.stdin:
    digest, buffer = hashlib.blake2b(), ctypes.create_string_buffer(block)
    for number in range(size // block):
        check(cuda.cuMemcpyDtoH_v2(buffer, ctypes.c_uint64(memory.value + number * block), ctypes.c_size_t(block)))
        digest.update(buffer.raw)
    print(digest.hexdigest(), flush=True)
"""
"""A process with memory of a device, which says what is in it when it is asked."""


@pytest.mark.processes
def test_an_idle_process_gives_its_device_up_to_the_driver_and_has_the_same_bytes_afterwards(
    record_property: Callable[[str, object], None],
) -> None:
    reason = DriverCheckpoints().why_not()
    if reason:
        pytest.skip(reason)
    size = 8 * GIB
    provider = NvmlProvider()
    command = [sys.executable, "-c", HOLDER, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "ready\n"

            def ask() -> str:
                assert holder.stdin is not None
                assert holder.stdout is not None
                holder.stdin.write("\n")
                holder.stdin.flush()
                return holder.stdout.readline()

            def used() -> int:
                reading = provider.read(provider.devices()[0].uuid)
                assert reading is not None
                return reading.used_bytes

            before, held = ask(), used()
            began = time.monotonic()
            assert DriverCheckpoints().give_up(holder.pid) == ""
            gave_up = time.monotonic()
            assert held - used() >= size, "the device is free"
            taking = time.monotonic()
            assert DriverCheckpoints().take_back(holder.pid) == ""
            record_property("give_up_gb_s", size / 1e9 / (gave_up - began))
            record_property("take_back_gb_s", size / 1e9 / (time.monotonic() - taking))
            assert ask() == before
        finally:
            holder.kill()
            provider.close()

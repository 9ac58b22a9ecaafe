"""Measures what the node, its workers and its devices do. Runs in a thread of its own; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from atoll.nodeagent import processes
from atoll.nodeagent.core.events import (
    ClaimDevices,
    DeviceMemory,
    DeviceMemoryMeasured,
    DevicesClaimed,
    MemoryMeasured,
    NodeObserved,
    WorkerMemory,
)
from atoll.nodeagent.device_locks import DeviceLocks
from atoll.nodeagent.gpus import DeviceReading, Provider
from atoll.nodeagent.host_memory import HostMemory, tree_bytes
from atoll.protocol.values import DeviceSample, Outsider, WorkerSample

if TYPE_CHECKING:
    import psutil

UNNAMED_BYTES = 512 * 2**20
"""So much of a device a driver or a desktop takes without a process that is named for it."""

MAXIMUM_OUTSIDERS = 8
"""Told of one device."""


class Monitor:
    """Takes samples. Percentages are since the sample before.

    Args:
        provider: Knows the devices.
        locks: Know who holds them; None if nobody else can.
    """

    def __init__(self, provider: Provider, locks: DeviceLocks | None = None) -> None:
        self._provider = provider
        self._locks = locks
        self._uuids = [device.uuid for device in provider.devices()]
        self._processes: dict[int, psutil.Process] = {}
        self._began = False

    def observe(self, workers: list[tuple[bytes, int]], held: Iterable[str] = ()) -> NodeObserved:
        """Sample the node, its devices and the workers.

        Args:
            workers: Id and process id; one that is gone is left out.
            held: The devices that workers hold, or did a moment ago.
        """
        import psutil

        if not self._began:
            psutil.cpu_percent(None)  # the first call only remembers
            self._began = True
        memory = psutil.virtual_memory()
        pids, used = {pid for _worker_id, pid in workers}, set(held)
        for pid in [pid for pid in self._processes if pid not in pids]:
            del self._processes[pid]
        readings = {uuid: self._provider.read(uuid) for uuid in self._uuids}
        return NodeObserved(
            cpu_percent=psutil.cpu_percent(None),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            devices=[self._device_sample(uuid, reading, pids, used) for uuid, reading in readings.items()],
            workers=[
                sample
                for worker_id, pid in workers
                if (sample := self._worker_sample(worker_id, pid, _device_bytes(readings.values(), pid)))
            ],
            faults=tuple(self._provider.faults()),
        )

    def _worker_sample(self, worker_id: bytes, pid: int, device_bytes: int) -> WorkerSample | None:
        import psutil

        try:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                used_s = times.user + times.system + times.children_user + times.children_system
                used_bytes = process.memory_info().rss
                return WorkerSample(worker_id, pid, process.cpu_percent(None), used_bytes, used_s, device_bytes)
        except psutil.Error:
            self._processes.pop(pid, None)
            return None

    def _device_sample(
        self, uuid: str, reading: DeviceReading | None, workers: set[int], held: set[str]
    ) -> DeviceSample:
        """Tell memory of workers from that of others. What the driver does not lay to anybody's charge is others'."""
        if reading is None:
            return DeviceSample(uuid, 0.0, 0, trouble="not answered for by its driver")
        trouble = self._locks.held_elsewhere(uuid) if self._locks is not None and uuid not in held else ""
        outsiders = [
            Outsider(process.pid, process.used_bytes, process.user, process.name)
            for pid, process in reading.processes.items()
            if pid not in workers and processes.origin_of(pid) not in workers
        ]
        if reading.uuid not in held:
            unnamed = reading.used_bytes - sum(process.used_bytes for process in reading.processes.values())
            if unnamed > UNNAMED_BYTES:
                outsiders.append(Outsider(0, unnamed))
        outsiders.sort(key=lambda outsider: (-outsider.used_bytes, outsider.pid))
        foreign = sum(outsider.used_bytes for outsider in outsiders)
        shown = outsiders[:MAXIMUM_OUTSIDERS]
        return DeviceSample(uuid, reading.use_percent, reading.used_bytes, foreign, shown, trouble)

    def claim(self, action: ClaimDevices) -> DevicesClaimed:
        """Lock devices for a lease and look what they do."""
        assert self._locks is not None, "who claims devices has locks for them"
        refused = self._locks.take(action.uuids)
        samples, memory = [], []
        for uuid in action.uuids:
            reading = self._provider.read(uuid)
            if reading is not None:
                sample = self._device_sample(uuid, reading, set(action.pids), set(action.held))
                samples.append(msgspec.structs.replace(sample, trouble=refused.get(uuid, "")))
                memory.append(_device_memory(reading, 0))
        return DevicesClaimed(action.lease_id, samples, memory, refused)

    def unlock(self, uuids: list[str]) -> None:
        """Let go of devices."""
        assert self._locks is not None, "who claims devices has locks for them"
        self._locks.release(uuids)

    def measure(self, lease_id: int, uuids: list[str], worker_pid: int) -> DeviceMemoryMeasured:
        """Look what is in use on devices, and whether anything of it is the worker's."""
        found = []
        for uuid in uuids:
            reading = self._provider.read(uuid)
            if reading is not None:
                found.append(_device_memory(reading, worker_pid))
        return DeviceMemoryMeasured(lease_id, found)


def _device_bytes(readings: Iterable[DeviceReading | None], worker_pid: int) -> int:
    """Return the most memory that a worker, with what it has started, has of any one device."""
    sums = [
        sum(
            process.used_bytes
            for pid, process in reading.processes.items()
            if worker_pid in {pid, processes.origin_of(pid)}
        )
        for reading in readings
        if reading is not None and reading.processes
    ]
    return max(sums, default=0)


def measure_memory(host: HostMemory, workers: list[tuple[bytes, int, bool]]) -> MemoryMeasured:
    """Look how much of the host's memory workers (id, pid, whether exactly) use, and what is left."""
    found = [
        WorkerMemory(worker_id, tree_bytes(pid, exact=False), tree_bytes(pid, exact=True) if exactly else None)
        for worker_id, pid, exactly in workers
    ]
    reading = host.read()
    return MemoryMeasured(found, reading.total_bytes, reading.available_bytes)


def _device_memory(reading: DeviceReading, worker_pid: int) -> DeviceMemory:
    own = other = 0
    for pid, process in reading.processes.items():
        if worker_pid and worker_pid in {pid, processes.origin_of(pid)}:
            own += max(1, process.used_bytes)  # one that is listed without its size is there, too
        elif process.lives:
            other += process.used_bytes
    return DeviceMemory(reading.uuid, reading.used_bytes, own, other)

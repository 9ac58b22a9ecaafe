"""Measures what the node, its workers and its devices do. Runs in a thread of its own; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.nodeagent import processes
from atoll.nodeagent.core.events import DeviceMemory, DeviceMemoryMeasured, NodeObserved
from atoll.nodeagent.gpus import DeviceReading, Provider
from atoll.protocol.values import DeviceSample, WorkerSample

if TYPE_CHECKING:
    import psutil


class Monitor:
    """Takes samples. Percentages are since the sample before.

    Args:
        provider: Knows the devices.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._uuids = [device.uuid for device in provider.devices()]
        self._processes: dict[int, psutil.Process] = {}
        self._began = False

    def observe(self, workers: list[tuple[bytes, int]]) -> NodeObserved:
        """Sample the node, its devices and the workers (id, pid). A worker that is gone is left out."""
        import psutil

        if not self._began:
            psutil.cpu_percent(None)  # the first call only remembers
            self._began = True
        memory = psutil.virtual_memory()
        pids = {pid for _worker_id, pid in workers}
        for pid in [pid for pid in self._processes if pid not in pids]:
            del self._processes[pid]
        readings = [reading for uuid in self._uuids if (reading := self._provider.read(uuid)) is not None]
        return NodeObserved(
            cpu_percent=psutil.cpu_percent(None),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            devices=[self._device_sample(reading, pids) for reading in readings],
            workers=[sample for worker_id, pid in workers if (sample := self._worker_sample(worker_id, pid))],
        )

    def _worker_sample(self, worker_id: bytes, pid: int) -> WorkerSample | None:
        import psutil

        try:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = psutil.Process(pid)
            with process.oneshot():
                return WorkerSample(worker_id, pid, process.cpu_percent(None), process.memory_info().rss)
        except psutil.Error:
            self._processes.pop(pid, None)
            return None

    @staticmethod
    def _device_sample(reading: DeviceReading, workers: set[int]) -> DeviceSample:
        foreign = sum(
            size
            for pid, size in reading.processes.items()
            if pid not in workers and processes.session_of(pid) not in workers
        )
        return DeviceSample(reading.uuid, reading.use_percent, reading.used_bytes, foreign)

    def measure(self, lease_id: int, uuids: list[str], worker_pid: int) -> DeviceMemoryMeasured:
        """Look what is in use on devices, and whether anything of it is the worker's."""
        found = []
        for uuid in uuids:
            reading = self._provider.read(uuid)
            if reading is not None:
                found.append(_device_memory(reading, worker_pid))
        return DeviceMemoryMeasured(lease_id, found)


def _device_memory(reading: DeviceReading, worker_pid: int) -> DeviceMemory:
    own = other = 0
    for pid, size in reading.processes.items():
        session = processes.session_of(pid)
        if worker_pid and worker_pid in {pid, session}:
            own += max(1, size)  # a driver that lists a process without its size still says that it is there
        elif session is not None:
            other += size
    return DeviceMemory(reading.uuid, reading.used_bytes, own, other)

"""The devices of a node, by whatever knows them: NVML, or nothing but our word for simulated ones.

Devices are known by UUID. NVML is loaded only where its device file is there, and only once; a driver that fails
later makes a device unmeasurable, which keeps it from being given again, and never ends the agent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from atoll.protocol.values import Device

_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")
_logger = logging.getLogger("atoll.nodeagent")


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """A device at one moment.

    Attributes:
        uuid: Which.
        use_percent: How busy it is.
        used_bytes: Memory in use.
        processes: Process id to bytes, as far as the driver tells.
    """

    uuid: str
    use_percent: float
    used_bytes: int
    processes: Mapping[int, int] = field(default_factory=dict)


class Provider(Protocol):
    """What knows devices. Calls may block for milliseconds: they are made in a thread."""

    def devices(self) -> list[Device]:
        """Return all devices."""
        ...

    def read(self, uuid: str) -> DeviceReading | None:
        """Return what a device does now, or None if it cannot be read."""
        ...

    def close(self) -> None:
        """Let go of the driver."""
        ...


class NoDevices:
    """A node without any."""

    def devices(self) -> list[Device]:
        """Return none."""
        return []

    def read(self, uuid: str) -> DeviceReading | None:
        """Return None."""
        return None

    def close(self) -> None:
        """Do nothing."""


class SimulatedProvider:
    """Devices that do not exist, for tests, CI and demonstrations. Their names say so.

    Args:
        count: How many.
        memory_bytes: What each claims to have.
    """

    def __init__(self, count: int, memory_bytes: int) -> None:
        self._devices = [
            Device(f"SIM-GPU-{index:08d}", index, "Simulated GPU (no device)", memory_bytes, simulated=True)
            for index in range(count)
        ]
        self._held: dict[str, dict[int, int]] = {device.uuid: {} for device in self._devices}

    def devices(self) -> list[Device]:
        """Return the simulated devices."""
        return list(self._devices)

    def hold(self, uuid: str, pid: int, size_bytes: int) -> None:
        """Pretend that a process holds memory of a device; 0 bytes: none any more. For tests."""
        self._held[uuid][pid] = size_bytes
        if not size_bytes:
            del self._held[uuid][pid]

    def read(self, uuid: str) -> DeviceReading | None:
        """Return that the device does nothing; nothing but `hold` takes memory of it."""
        held = self._held.get(uuid)
        return None if held is None else DeviceReading(uuid, 0.0, sum(held.values()), dict(held))

    def close(self) -> None:
        """Do nothing."""


class NvmlProvider:
    """NVIDIA devices, through the driver's management library.

    Raises:
        RuntimeError: There is no driver that answers.
    """

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self._handles: dict[str, Any] = {}
        self._devices: list[Device] = []
        try:
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                self._add(index)
        except pynvml.NVMLError as error:
            raise RuntimeError(f"the NVIDIA driver does not answer: {error}") from None

    def _add(self, index: int) -> None:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        model = _text(nvml.nvmlDeviceGetName(handle))
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        self._handles[uuid] = handle
        self._devices.append(Device(uuid, index, model, memory_bytes))

    def devices(self) -> list[Device]:
        """Return the devices that were there when the agent started."""
        return list(self._devices)

    def read(self, uuid: str) -> DeviceReading | None:
        """Ask the driver."""
        nvml, handle = self._nvml, self._handles.get(uuid)
        if handle is None:
            return None
        try:
            used_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        except nvml.NVMLError as error:
            _logger.warning("device %s cannot be read: %s", uuid, error)
            return None
        return DeviceReading(uuid, self._use_percent(handle), used_bytes, self._processes(handle))

    def _use_percent(self, handle: Any) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except self._nvml.NVMLError:
            return 0.0  # not told for a part of a device (MIG)

    def _processes(self, handle: Any) -> dict[int, int]:
        found: dict[int, int] = {}
        for list_processes in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            try:
                processes = getattr(self._nvml, list_processes)(handle)
            except self._nvml.NVMLError:
                continue  # some drivers and containers do not tell
            for process in processes:
                found[int(process.pid)] = int(process.usedGpuMemory or 0)
        return found

    def close(self) -> None:
        """Let go of the driver."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            _logger.info("the NVIDIA driver did not let go: %s", error)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def find_provider(simulated: int, simulated_memory_bytes: int) -> Provider:
    """Return what knows this node's devices: simulated ones instead of real ones if any are wished for."""
    if simulated:
        return SimulatedProvider(simulated, simulated_memory_bytes)
    if not any(Path(file).exists() for file in _DEVICE_FILES):
        return NoDevices()
    try:
        return NvmlProvider()
    except RuntimeError as error:
        _logger.warning("there are NVIDIA device files, but %s; the node offers no GPU", error)
        return NoDevices()

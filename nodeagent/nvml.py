"""NVIDIA's devices, through the driver's management library (`pynvml`), which is loaded only where there is one.

What a driver or a container does not tell is left out: utilization of a part of a device, processes of another
container, NVLink on boards without it, events without the privilege for them. Only memory must be told: a device
whose memory cannot be read is not given.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atoll.nodeagent import processes
from atoll.nodeagent.core.events import DeviceFault
from atoll.nodeagent.gpus import DeviceProcess, DeviceReading
from atoll.protocol.values import Device

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Errors that NVIDIA lays to the program's charge: its own fault, and the device is as good as before."""

_logger = logging.getLogger("atoll.nodeagent")


class NvmlProvider:
    """NVIDIA devices. A device that is divided (MIG) is offered in its parts, not as a whole.

    Args:
        nvml: The binding; `pynvml` if None.

    Raises:
        RuntimeError: There is no driver that answers.
    """

    def __init__(self, nvml: Any = None) -> None:
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml
        self._handles: dict[str, Any] = {}
        self._parts: dict[str, list[str]] = {}
        self._devices: list[Device] = []
        self._events: Any = None
        try:
            nvml.nvmlInit()
            for number in range(nvml.nvmlDeviceGetCount()):
                self._add(nvml.nvmlDeviceGetHandleByIndex(number))
        except nvml.NVMLError as error:
            raise RuntimeError(f"the NVIDIA driver does not answer: {error}") from None
        self._measure_distances()
        self._listen()

    def _ask(self, default: Any, function: str, *arguments: Any) -> Any:
        """Return what the driver answers, or the default where it does not tell."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except (self._nvml.NVMLError, AttributeError):  # the second: a binding older than the question
            return default

    # ---------------------------------------------------------------------------------------------- what there is

    def _add(self, handle: Any) -> None:
        whole = _text(self._nvml.nvmlDeviceGetUUID(handle))
        numa_node = self._numa_node(handle)
        self._handles[whole] = handle
        parts = list(self._parts_of(handle))
        self._parts[whole] = []
        for part in parts or [handle]:
            uuid = _text(self._nvml.nvmlDeviceGetUUID(part))
            model = _text(self._nvml.nvmlDeviceGetName(part))
            memory_bytes = int(self._memory(part).total)
            self._handles[uuid] = part
            self._parts[whole].append(uuid)
            parent = whole if parts else ""
            self._devices.append(Device(uuid, len(self._devices), model, memory_bytes, False, parent, numa_node))

    def _parts_of(self, handle: Any) -> Iterator[Any]:
        """Yield the MIG instances into which a device is divided."""
        mode = self._ask([0, 0], "nvmlDeviceGetMigMode", handle)
        if not mode[0]:
            return
        for number in range(self._ask(0, "nvmlDeviceGetMaxMigDeviceCount", handle)):
            part = self._ask(None, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            if part is not None:
                yield part

    def _numa_node(self, handle: Any) -> int:
        """Return the processor that the device is nearest to, or -1."""
        pci = self._ask(None, "nvmlDeviceGetPciInfo", handle)
        if pci is not None:
            bus = _text(pci.busId).lower()
            domain, _, rest = bus.partition(":")
            with contextlib.suppress(OSError, ValueError):
                file = Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node")
                return int(file.read_text(encoding="ascii"))
        return int(self._ask(-1, "nvmlDeviceGetNumaNodeId", handle))

    def _measure_distances(self) -> None:
        """Find out how far each two devices are apart, if there are several."""
        wholes = list(self._parts)
        if len(self._devices) < 2:
            return
        buses = {_bus(self._ask(None, "nvmlDeviceGetPciInfo", self._handles[uuid])): uuid for uuid in wholes}
        links = {uuid: self._nvlinks(self._handles[uuid], buses) for uuid in wholes}
        by_uuid = {device.uuid: device for device in self._devices}
        for one in wholes:
            for other in wholes:
                apart = 0 if one == other else self._distance(one, other, links)
                if apart is not None:
                    for mine in self._parts[one]:
                        by_uuid[mine].distances.update({uuid: apart for uuid in self._parts[other] if uuid != mine})

    def _distance(self, one: str, other: str, links: dict[str, dict[str, int]]) -> int | None:
        direct = links[one].get(other, 0)
        switched = min(links[one].get("", 0), links[other].get("", 0))
        if direct or switched:
            return 10 - min(9, max(direct, switched))
        level = self._ask(None, "nvmlDeviceGetTopologyCommonAncestor", self._handles[one], self._handles[other])
        return None if level is None else max(10, int(level))

    def _nvlinks(self, handle: Any, buses: dict[str, str]) -> dict[str, int]:
        """Return how many links lead to each device; those to a switch lead to all, and are counted under ''."""
        found: dict[str, int] = {}
        for link in range(getattr(self._nvml, "NVML_NVLINK_MAX_LINKS", 18)):
            if not self._ask(0, "nvmlDeviceGetNvLinkState", handle, link):
                continue
            switch = getattr(self._nvml, "NVML_NVLINK_DEVICE_TYPE_SWITCH", 2)
            if self._ask(None, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) == switch:
                to: str | None = ""
            else:
                to = buses.get(_bus(self._ask(None, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link)))
            if to is not None:
                found[to] = found.get(to, 0) + 1
        return found

    def devices(self) -> list[Device]:
        """Return the devices that were there when the agent started."""
        return list(self._devices)

    # --------------------------------------------------------------------------------------------- what it does

    def read(self, uuid: str) -> DeviceReading | None:
        """Ask the driver."""
        handle = self._handles.get(uuid)
        if handle is None:
            return None
        try:
            used_bytes = int(self._memory(handle).used)
        except self._nvml.NVMLError as error:
            _logger.warning("device %s cannot be read: %s", uuid, error)
            return None
        rates = self._ask(None, "nvmlDeviceGetUtilizationRates", handle)  # not told for a part of a device
        return DeviceReading(uuid, float(rates.gpu) if rates else 0.0, used_bytes, self._processes(handle))

    def _memory(self, handle: Any) -> Any:
        """Return a device's memory in use; what the driver has set apart for itself is left out where it says so."""
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        if version is not None:
            told = self._ask(None, "nvmlDeviceGetMemoryInfo", handle, version)
            if told is not None:
                return told
        return self._nvml.nvmlDeviceGetMemoryInfo(handle)

    def _processes(self, handle: Any) -> dict[int, DeviceProcess]:
        found: dict[int, DeviceProcess] = {}
        for question in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            for process in self._ask([], question, handle):
                pid = int(process.pid)
                found[pid] = _described(pid, int(process.usedGpuMemory or 0))
        return found

    # --------------------------------------------------------------------------------------------------- faults

    def _listen(self) -> None:
        """Ask to be told of errors. Where the driver does not tell, workers still report what CUDA says to them."""
        nvml = self._nvml
        self._events = self._ask(None, "nvmlEventSetCreate")
        if self._events is None:
            return
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        for uuid in self._parts:
            handle = self._handles[uuid]
            told = wanted & self._ask(0, "nvmlDeviceGetSupportedEventTypes", handle)
            if told:
                self._ask(None, "nvmlDeviceRegisterEvents", handle, told, self._events)

    def faults(self) -> list[DeviceFault]:
        """Return the errors that the driver has told since the last call."""
        found: list[DeviceFault] = []
        while self._events is not None:
            event = self._ask(None, "nvmlEventSetWait_v2", self._events, 0)
            if event is None:
                break
            whole = _text(self._ask("", "nvmlDeviceGetUUID", event.device))
            text, counts = self._described_event(event)
            found.extend(DeviceFault(uuid, text, counts) for uuid in self._parts.get(whole, []))
        return found

    def _described_event(self, event: Any) -> tuple[str, bool]:
        if event.eventType == self._nvml.nvmlEventTypeDoubleBitEccError:
            return "uncorrectable memory error (ECC)", True
        number = int(event.eventData)
        blame = " (the program's fault)" if number in APPLICATION_XIDS else ""
        return f"XID {number}{blame}", number not in APPLICATION_XIDS

    def close(self) -> None:
        """Let go of the driver."""
        if self._events is not None:
            self._ask(None, "nvmlEventSetFree", self._events)
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            _logger.info("the NVIDIA driver did not let go: %s", error)


def _described(pid: int, used_bytes: int) -> DeviceProcess:
    """Return what is known of a process; nothing of one in another container."""
    lives = processes.session_of(pid) is not None

    def read(what: Callable[[], str]) -> str:
        try:
            return what()
        except (OSError, KeyError):
            return ""

    user = read(lambda: pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name)  # noqa: PTH116 - no link to follow
    name = read(lambda: Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip())
    return DeviceProcess(pid, used_bytes, user, name, lives)


def _bus(pci: Any) -> str:
    """Return a PCI address in one form: the domain is told with four digits or with eight."""
    if pci is None:
        return ""
    domain, _, rest = _text(pci.busId).lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

"""The devices of a node, by whatever knows them: one interface, and who stands behind it on this node.

    nvml.py             NVIDIA's devices, through the driver's management library
    simulated_gpus.py   devices that exist for tests and demonstrations only

Devices are known by UUID. Where the driver fails later, a device cannot be read, which keeps it from being given
again; that never ends the agent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from atoll.config import Settings
from atoll.nodeagent.checkpoints import Checkpoints, DriverCheckpoints, NoCheckpoints
from atoll.nodeagent.core.events import DeviceFault
from atoll.protocol.values import Device

_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")
_logger = logging.getLogger("atoll.nodeagent")


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that has memory of a device.

    Attributes:
        pid: Its process id, as the driver tells it.
        used_bytes: How much; 0 if the driver does not tell.
        user: Whose it is, if that can be known.
        name: What it runs, likewise.
        lives: Whether it is there. A driver may list one for a while that is not.
    """

    pid: int
    used_bytes: int
    user: str = ""
    name: str = ""
    lives: bool = True


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """A device at one moment.

    Attributes:
        uuid: Which.
        use_percent: How busy it is.
        used_bytes: Memory in use.
        processes: Who uses it, by process id, as far as the driver tells.
    """

    uuid: str
    use_percent: float
    used_bytes: int
    processes: Mapping[int, DeviceProcess] = field(default_factory=dict)


class Provider(Protocol):
    """What knows devices. Calls may block for milliseconds: they are made in one thread, not in the agent's loop."""

    def devices(self) -> list[Device]:
        """Return all devices that can be given, with their distances. The same at every call."""
        ...

    def read(self, uuid: str) -> DeviceReading | None:
        """Return what a device does now, or None if it cannot be read."""
        ...

    def faults(self) -> list[DeviceFault]:
        """Return what has failed since the last call, each failure once."""
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

    def faults(self) -> list[DeviceFault]:
        """Return none."""
        return []

    def close(self) -> None:
        """Do nothing."""


def find_checkpoints(provider: Provider) -> Checkpoints:
    """Return what can give up what a process has on the devices of a provider."""
    if not provider.devices():
        return NoCheckpoints("there is no GPU")
    if isinstance(provider, Checkpoints):
        return provider
    return DriverCheckpoints()


def find_provider(settings: Settings) -> Provider:
    """Return what knows this node's devices: simulated ones instead of real ones if any are wished for.

    Raises:
        ValueError: The script of simulated devices cannot be read.
    """
    if settings.simulated_gpu_script is not None or settings.simulated_gpus:
        from atoll.nodeagent.simulated_gpus import SimulatedProvider

        if settings.simulated_gpu_script is not None:
            return SimulatedProvider.scripted(settings.simulated_gpu_script)
        return SimulatedProvider(settings.simulated_gpus, settings.simulated_gpu_memory_bytes)
    if not any(Path(file).exists() for file in _DEVICE_FILES):
        return NoDevices()
    from atoll.nodeagent.nvml import NvmlProvider

    try:
        return NvmlProvider()
    except RuntimeError as error:
        _logger.warning("there are NVIDIA device files, but %s; the node offers no GPU", error)
        return NoDevices()

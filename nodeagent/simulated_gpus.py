"""SIMULATED devices: they have memory, distances, processes and faults that tests script, and compute nothing.

Their models and UUIDs say so wherever they show. A script (`atoll.simulated_gpus`) is read again whenever its file has
changed, so that a test can let a colleague's job come, memory stay behind, or a device fail.
"""

from __future__ import annotations

import logging
from pathlib import Path

from atoll.nodeagent import processes
from atoll.nodeagent.checkpoints import GIVE_UP, TAKE_BACK
from atoll.nodeagent.core.events import DeviceFault
from atoll.nodeagent.gpus import DeviceProcess, DeviceReading
from atoll.protocol.values import Device
from atoll.resources import parse_bytes
from atoll.simulated_gpus import LINK_KINDS, Script, ScriptedDevice, ScriptedProcess, read_script

_logger = logging.getLogger("atoll.nodeagent")


class SimulatedProvider:
    """Devices that do not exist, for tests, CI and demonstrations.

    Args:
        count: How many.
        memory_bytes: What each claims to have.
    """

    def __init__(self, count: int, memory_bytes: int) -> None:
        self._begin(Script([ScriptedDevice(memory=str(memory_bytes)) for _number in range(count)]))

    @classmethod
    def scripted(cls, path: Path) -> SimulatedProvider:
        """Return the devices of a script.

        Raises:
            ValueError: The script cannot be read.
        """
        provider = cls.__new__(cls)
        provider._begin(read_script(path), path)
        return provider

    def _begin(self, script: Script, path: Path | None = None) -> None:
        self._path = path
        self._version = _version(path)
        self._script = script
        self._faults_told = len(script.faults)
        self._devices = _devices(script)
        self._by_number = {
            number: [d for d, n in self._devices if n == number] for number in range(len(script.devices))
        }
        self._held: dict[str, dict[int, int]] = {device.uuid: {} for device, _number in self._devices}
        self._away: dict[int, None] = {}

    def devices(self) -> list[Device]:
        """Return the simulated devices."""
        return [device for device, _number in self._devices]

    def hold(self, uuid: str, pid: int, size_bytes: int) -> None:
        """Pretend that a process holds memory of a device; 0 bytes: none any more. For tests in one process."""
        self._held[uuid][pid] = size_bytes
        if not size_bytes:
            del self._held[uuid][pid]

    def read(self, uuid: str) -> DeviceReading | None:
        """Return that the device does nothing, and who holds memory of it as `hold` and the script say."""
        self._look()
        held = self._held.get(uuid)
        number = next((number for device, number in self._devices if device.uuid == uuid), -1)
        if held is None or number in self._script.unreadable:
            return None
        found = {pid: DeviceProcess(pid, size, lives=_lives(pid)) for pid, size in held.items()}
        if self._by_number[number][0].uuid == uuid:  # of a divided device, its first part has what is scripted
            for process in self._script.processes:
                if process.gpu == number and (process.user or process.outlives or _lives(process.pid)):
                    found[process.pid] = _scripted(process)
        for pid in self._away:
            found.pop(pid, None)
        return DeviceReading(uuid, 0.0, sum(process.used_bytes for process in found.values()), found)

    def faults(self) -> list[DeviceFault]:
        """Return the scripted faults that were not told of yet."""
        self._look()
        new, self._faults_told = self._script.faults[self._faults_told :], len(self._script.faults)
        return [
            DeviceFault(device.uuid, fault.text, not fault.application)
            for fault in new
            for device in self._by_number.get(fault.gpu, [])
        ]

    # ------------------------------------------------------------------------------- as `checkpoints.Checkpoints`

    def why_not(self) -> str:
        """Return why the scripted driver cannot give up what a process has."""
        return self._script.no_checkpoint

    def give_up(self, pid: int) -> str:
        """Take what a process holds off the devices."""
        self._look()
        if GIVE_UP in self._script.failing_checkpoints:
            return "the simulated driver could not"
        self._away[pid] = None
        return ""

    def take_back(self, pid: int) -> str:
        """Let it hold that again."""
        self._look()
        if TAKE_BACK in self._script.failing_checkpoints:
            return "the simulated driver could not"
        self._away.pop(pid, None)
        return ""

    def _look(self) -> None:
        """Read the script again if its file is another."""
        version = _version(self._path)
        if self._path is None or version == self._version:
            return
        self._version = version
        try:
            self._script = read_script(self._path)
        except ValueError as error:
            _logger.warning("%s", error)

    def close(self) -> None:
        """Do nothing."""


def _version(path: Path | None) -> tuple[int, int]:
    if path is None:
        return 0, 0
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def _lives(pid: int) -> bool:
    return processes.session_of(pid) is not None


def _scripted(process: ScriptedProcess) -> DeviceProcess:
    lives = bool(process.user) or _lives(process.pid)
    return DeviceProcess(process.pid, parse_bytes(process.memory), process.user, process.name, lives)


def _devices(script: Script) -> list[tuple[Device, int]]:
    """Return what is offered, each with the number of the GPU in the script."""
    found: list[tuple[Device, int]] = []
    for number, scripted in enumerate(script.devices):
        model = f"Simulated {scripted.model}"
        parent = f"SIM-GPU-{number:08d}"
        if not scripted.parts:
            device = Device(parent, len(found), model, parse_bytes(scripted.memory), True, "", scripted.numa_node)
            found.append((device, number))
        for part, profile in enumerate(scripted.parts):
            uuid = f"SIM-MIG-{number:08d}-{part}"
            size = parse_bytes(profile.rpartition(".")[2])
            device = Device(uuid, len(found), f"{model} MIG {profile}", size, True, parent, scripted.numa_node)
            found.append((device, number))
    distances = {tuple(sorted(link.between)): link.distance for link in script.links}
    if distances:
        for device, number in found:
            for other, other_number in found:
                if other is not device:
                    device.distances[other.uuid] = _distance(distances, script, number, other_number)
    return found


def _distance(distances: dict[tuple[int, ...], int], script: Script, one: int, other: int) -> int:
    if one == other:
        return 0
    same_node = script.devices[one].numa_node == script.devices[other].numa_node
    return distances.get(tuple(sorted((one, other))), LINK_KINDS["NODE" if same_node else "SYS"])

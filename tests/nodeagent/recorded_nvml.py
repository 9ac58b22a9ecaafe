"""What `pynvml` answers on a board of four GPUs, the last of them divided: a FAKE of the binding, of nothing above it.

Two pairs are joined by four NVLinks each; the pairs lie on different processors. The answers have the types of the
real binding: strings as bytes in some versions, handles that are opaque, `NVMLError` where something is not supported.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

GIB = 2**30


class NVMLError(Exception):
    """As the binding's own."""


class RecordedNvml:
    """Stands for the module `pynvml`."""

    NVMLError = NVMLError
    NVML_NVLINK_MAX_LINKS = 12
    NVML_NVLINK_DEVICE_TYPE_SWITCH = 2
    nvmlEventTypeXidCriticalError = 8  # noqa: N815 - as the binding names it
    nvmlEventTypeDoubleBitEccError = 2  # noqa: N815 - likewise

    def __init__(self, *, switched: bool = False, divided: bool = True) -> None:
        self.switched, self.divided = switched, divided
        self.used = {f"GPU-{number}": 300 * 2**20 for number in range(4)}
        self.processes: dict[str, list[tuple[int, int | None]]] = {}
        self.events: list[tuple[str, int, int]] = []
        self.listened: list[str] = []
        self.is_open = False
        self.fails: set[str] = set()

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return 4

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:
        return f"GPU-{number}"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return handle.encode()

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA A100-SXM4-40GB" + (" MIG 1g.5gb" if handle.startswith("MIG") else "")

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        if handle in self.fails:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(total=(5 if handle.startswith("MIG") else 40) * GIB, used=self.used.get(handle, 0))

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [int(self.divided and handle == "GPU-3")] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, _handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _handle: str, number: int) -> str:
        if number >= 2:
            raise NVMLError("Not Found")
        return f"MIG-{number}"

    def nvmlDeviceGetPciInfo(self, handle: str) -> Any:
        return SimpleNamespace(busId=f"00000000:F{handle[-1]}:00.0")

    def nvmlDeviceGetNumaNodeId(self, handle: str) -> int:
        return int(handle[-1]) // 2

    def nvmlDeviceGetTopologyCommonAncestor(self, one: str, other: str) -> int:
        return 20 if int(one[-1]) // 2 == int(other[-1]) // 2 else 50

    def nvmlDeviceGetNvLinkState(self, handle: str, link: int) -> int:
        if link >= 4:
            raise NVMLError("Invalid Argument")
        return 1

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, _handle: str, _link: int) -> int:
        return 2 if self.switched else 0

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: str, _link: int) -> Any:
        return SimpleNamespace(busId=f"0000:F{int(handle[-1]) ^ 1}:00.0")

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        if handle.startswith("MIG"):
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes.get(handle, [])]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _handle: str) -> list[Any]:
        raise NVMLError("Not Supported")

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlEventSetFree(self, _events: str) -> None:
        self.listened.clear()

    def nvmlDeviceGetSupportedEventTypes(self, _handle: str) -> int:
        return 8 | 4

    def nvmlDeviceRegisterEvents(self, handle: str, _kinds: int, _events: str) -> None:
        self.listened.append(handle)

    def nvmlEventSetWait_v2(self, _events: str, _timeout_ms: int) -> Any:
        if not self.events:
            raise NVMLError("Timeout")
        device, kind, number = self.events.pop(0)
        return SimpleNamespace(device=device, eventType=kind, eventData=number)

"""What processes and the host use of memory: what only Linux tells, behind one interface.

Counted for a worker is what is its own: private and anonymous memory, of it and of all that it has started. Shared
pages are not: objects in the store belong to the node, code and files to everybody.

Two figures. The quick one takes some microseconds a process; it counts pages that a fork shares with its parent for
both. The exact one divides those among all who have them; the kernel walks through all pages for it, some milliseconds
for each gigabyte. So the exact one is asked for only where the quick one says that somebody has too much.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from atoll.nodeagent import processes

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT_BYTES = 1 << 60


class HostReading(NamedTuple):
    """The host's memory at one moment: the machine's, or that of the control group that we are in if it has less."""

    total_bytes: int
    available_bytes: int


class HostMemory:
    """Reads what the host has left.

    Args:
        proc: Where the kernel tells of itself.
        groups: Where it tells of control groups.
    """

    def __init__(self, proc: Path = _PROC, groups: Path = _GROUPS) -> None:
        self._meminfo = proc / "meminfo"
        self._groups = list(_limited_groups(proc / "self" / "cgroup", groups))

    def read(self) -> HostReading:
        """Return what there is and what is left, without swapping."""
        values = _numbers_of(self._meminfo)
        total = values.get("MemTotal", _NO_LIMIT_BYTES // 1024) * 1024
        available = values.get("MemAvailable", _NO_LIMIT_BYTES // 1024) * 1024
        for group in self._groups:
            reading = group.read()
            if reading is not None:
                total = min(total, reading.total_bytes)
                available = min(available, reading.available_bytes)
        return HostReading(total, available)


class _Group(NamedTuple):
    """A control group with a limit: the files that tell of it, and what its file pages are called there."""

    limit: Path
    used: Path
    statistics: Path
    reclaimable: str

    def read(self) -> HostReading | None:
        limit, used = _number_in(self.limit), _number_in(self.used)
        if limit is None or used is None or limit >= _NO_LIMIT_BYTES:
            return None
        files = _numbers_of(self.statistics).get(self.reclaimable, 0)
        return HostReading(limit, max(0, limit - max(0, used - files)))


def _limited_groups(own: Path, root: Path) -> Iterator[_Group]:
    """Yield the control groups, of version 1 or 2, that this process is in, up to the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "memory.stat", "inactive_file")
            top = root
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
            top = root / "memory"
        else:
            continue
        place = top / path.lstrip("/")
        for directory in dict.fromkeys((place, *place.parents)):
            if directory.is_relative_to(top) and (directory / names[0]).exists():
                yield _Group(directory / names[0], directory / names[1], directory / names[2], names[3])


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _numbers_of(path: Path) -> dict[str, int]:
    """Return the numbers of a file with lines such as `Name: 12 kB` or `name 12`."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) >= 2 and words[1].isdigit():
                found[words[0].removesuffix(":")] = int(words[1])
    return found


# ------------------------------------------------------------------------------------------------------- processes


def private_bytes(pid: int) -> int:
    """Return the anonymous memory of a process, quickly; 0 if it is gone."""
    try:
        _size, resident, shared, *_rest = (_PROC / str(pid) / "statm").read_bytes().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def exact_private_bytes(pid: int) -> int:
    """Return the anonymous memory of a process, shared pages divided among those who have them; 0 if it is gone."""
    values = _numbers_of(_PROC / str(pid) / "smaps_rollup")
    if "Pss_Anon" not in values:
        return private_bytes(pid)  # an older kernel, or a process that may not be looked into
    return (values["Pss_Anon"] + values.get("SwapPss", 0)) * 1024


def tree_bytes(pid: int, *, exact: bool) -> int:
    """Return the anonymous memory of a process and of all that it has started."""
    measure = exact_private_bytes if exact else private_bytes
    return sum(measure(each) for each in (pid, *processes.family(pid)))


class OwnPeak:
    """The highest memory of this process between one look and the next, without what it shares.

    The kernel remembers how much was resident at the most, shared pages too. What is shared is known only at the looks,
    so a peak is right as long as it does not change much in between, and never below what there is now.
    """

    def __init__(self) -> None:
        self._shared_bytes = 0
        self._resets = True

    def take(self) -> int:
        """Return the peak since the last call, and begin anew. Bytes."""
        try:
            _size, resident, shared, *_rest = (_PROC / "self" / "statm").read_bytes().split()
        except (OSError, ValueError):
            return 0
        own_bytes = (int(resident) - int(shared)) * _PAGE_BYTES
        shared_before, self._shared_bytes = self._shared_bytes, int(shared) * _PAGE_BYTES
        if not self._resets:
            return own_bytes
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        try:
            (_PROC / "self" / "clear_refs").write_bytes(b"5")  # the peak of what is resident becomes what is resident
        except OSError:
            self._resets = False  # not in this container: then a peak is what there is when somebody looks
        return max(own_bytes, highest - max(shared_before, self._shared_bytes))

"""The processes that a system starts: who they are, what they use, and whether any is left when it has ended.

Daemons fork twice, begin sessions of their own and outlive who started them. So the benchmark and each host process
make themselves a *subreaper*: what loses its parent becomes their child, and whoever descends from them is found.
Only those are ever ended, each by its own id.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Let every orphan among our descendants become our child.

    Raises:
        OSError: The kernel does not offer it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def descendants() -> list[int]:
    """Return the living processes that descend from this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def reap_orphans(known: set[int]) -> None:
    """Take the exit codes of ended children that nobody else waits for; those in `known` have somebody."""
    for child in psutil.Process().children():
        if child.pid not in known:
            with contextlib.suppress(ChildProcessError, psutil.NoSuchProcess):
                os.waitpid(child.pid, os.WNOHANG)


def remaining(within_s: float) -> dict[int, str]:
    """Return who descends from us still after a bounded while, with the beginning of its command line."""
    until = time.monotonic() + within_s
    while True:
        reap_orphans(set())
        left = {pid: command_of(pid) for pid in descendants()}
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)


def end(pids: list[int], within_s: float = 3.0) -> None:
    """End these processes, at first by asking. They must be our descendants."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            reap_orphans(set())
            alive = set(descendants())
            pids = [pid for pid in pids if pid in alive]
            if not pids:
                return
            time.sleep(0.02)


def command_of(pid: int) -> str:
    """Return the beginning of a command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()[:100]
    except OSError:
        return "?"


def cpu_s(pid: int) -> float:
    """Return how much processor time all threads of a process have used, exactly; 0 for one that is gone."""
    used = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            used += int(thread.read_text().split()[0])
    return used / 1e9


def proportional_bytes(pid: int) -> int:
    """Return a process's memory, what it shares divided among who shares it; 0 for one that is gone."""
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") * 1024


def own_bytes(pid: int) -> int:
    """Return the memory that a process (0: this one) has for itself alone, files and shared memory left out."""
    return _kilobytes(f"/proc/{pid or os.getpid()}/status", "RssAnon:") * 1024


def _kilobytes(path: str, name: str) -> int:
    try:
        text = Path(path).read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0)


def shared_files(pid: int) -> list[str]:
    """Return what lies in the machine's shared memory under a name that names this process as its maker."""
    directory = Path("/dev/shm")
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(name for name in names if str(pid) in re.split("[-_.]", name))

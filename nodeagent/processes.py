"""What only Linux has about processes, behind one interface: another system is a second implementation of this file.

Used by the agent (which reaps what is left over), by the zygote (which forks) and by the child right after the fork.
It imports little, since the zygote pays for it before its first fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_RLIMIT_LOCKS = 10
"""A limit that the kernel has not looked at for twenty years and still hands down from parent to child."""

_MARK = 1 << 60

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Have this process sent a signal when its parent ends.

    Raises:
        ProcessLookupError: The parent has ended already.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        raise ProcessLookupError("the parent ended before this process could follow it")


def adopt_orphans() -> None:
    """Make descendants whose parents end the children of this process, so that none is out of its reach."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def boot() -> str:
    """Return what tells this run of the system from those before; monotonic clocks begin anew with each."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def thread_count() -> int:
    """Return how many threads this process has, those of libraries too."""
    return sum(1 for _entry in Path("/proc/self/task").iterdir())


def allow_descriptors(most: int = 2**20) -> None:
    """Let this process and what it starts have as many descriptors as the system allows: each segment takes two."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def prefer_as_victim(score: int) -> None:
    """Say how readily this process is chosen when the host runs out of memory: 1000 first, -1000 never.

    A score below the present one needs a privilege; without it nothing changes.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies too."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in (task / "children").read_text(encoding="ascii").split())
    return found


def descendants(pid: int) -> list[int]:
    """Return all that descend from a process, the nearest first."""
    found: list[int] = []
    layer = children(pid)
    while layer:
        found.extend(layer)
        layer = [grandchild for child in layer for grandchild in children(child)]
    return found


def session_of(pid: int) -> int | None:
    """Return the session of a process, or None if it is gone.

    It is 0 where the session's leader lives outside of this process-id namespace, as in a container that was entered.
    """
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def mark_descent() -> None:
    """Write this process's id where all that ever descends from it has it, too.

    Parents end, sessions are left, variables cleared and descriptors closed by whoever makes a daemon of itself. Limits
    stay, through `fork` and `exec`; one of them is of no use for anything else. Where a system refuses, as some
    sandboxes do, `origin_of` has only the session to go by.
    """
    with contextlib.suppress(OSError, ValueError):
        _soft, hard = resource.getrlimit(_RLIMIT_LOCKS)
        resource.setrlimit(_RLIMIT_LOCKS, (_MARK | os.getpid(), hard))


def mark_of(pid: int) -> int:
    """Return the process that marked its descent and that a process descends from; 0 if there is none."""
    try:
        soft, _hard = resource.prlimit(pid, _RLIMIT_LOCKS)
    except (OSError, ValueError):  # gone, or another user's
        return 0
    return soft ^ _MARK if soft > 0 and soft & _MARK else 0


def origin_of(pid: int) -> int | None:
    """Return the process that a process comes from: by its mark or, without one, its session. None if it is gone."""
    return mark_of(pid) or session_of(pid)


def parent_of(pid: int) -> int | None:
    """Return the parent of a process, or None if the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def family(pid: int) -> list[int]:
    """Return all that a process has started and that lives, also what its own parent has adopted meanwhile."""
    parent = parent_of(pid)
    adopted = [other for other in children(parent) if other != pid and origin_of(other) == pid] if parent else []
    return [*descendants(pid), *(each for orphan in adopted for each in (orphan, *descendants(orphan)))]


def has_variable(pid: int, assignment: bytes) -> bool:
    """Tell whether a process was started with `NAME=value` in its environment."""
    try:
        return assignment in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def kill(pids: Iterable[int]) -> None:
    """Kill processes; those that are gone are left out."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_group(group: int) -> None:
    """Kill all processes of a group, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_descendants(timeout_s: float) -> bool:
    """Kill and reap all descendants of this process, which must adopt orphans.

    Returns:
        Whether none is left; False if some had not ended when the time was over.
    """
    deadline = time.monotonic() + timeout_s
    own = os.getpid()
    while True:
        kill(descendants(own))
        reap_all()
        if not children(own):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)


def reap_all() -> list[tuple[int, int]]:
    """Collect the children that have ended: (pid, wait status)."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status))


def reap(pid: int) -> None:
    """Collect one child if it has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def close_descriptors_from(first: int, but: Iterable[int] = ()) -> None:
    """Close all descriptors from a number on, but these."""
    for kept in sorted(but):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def close_last(descriptors: Iterable[int], above: int = 4000) -> None:
    """Give descriptors numbers above those of whatever is opened later, as far as the limit of descriptors allows.

    When a process ends, the system closes what it has open from the lowest number up, one after the other.
    """
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # there is no number left up there: it stays where it is
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, min(above, limit - 32))
            os.set_inheritable(moved, os.get_inheritable(descriptor))
            os.close(descriptor)


def reset_signals() -> None:
    """Give every signal its usual effect again, and Python its own for an interrupt."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])

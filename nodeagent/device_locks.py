"""A lock for each device, held for as long as any process lives that may use it.

The node agent takes the lock when a lease claims the device and hands its descriptor down to the worker, which keeps
it as long as it lives, and so do the processes that the worker forks. The lock is one of the system's (`flock`): it
is gone when the last of these descriptors is, however that came. So a device whose agent was killed stays locked until
the workers of that agent are dead, too, and a second cluster of the same user on this host waits for the first.

All processes of one agent share one lock: which of them may hold which share is decided by the scheduler and checked
by the agent's core. Other users have locks of their own, which we could not trust; what they use shows as memory that
is in use by others.

The files lie in a directory that is ours alone, and are never removed: who removed one while it was locked would let
another be made and locked beside it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
from pathlib import Path

from atoll.exceptions import ClusterStartError, InsecureDirectoryError
from atoll.nodeagent import processes
from atoll.protocol.runtime_directory import check_directory, make_runtime_root, open_private, runtime_root

LOCKS = "atoll-devices"
_logger = logging.getLogger("atoll.nodeagent")


class DeviceLocks:
    """The locks that this agent holds. Used in one thread, except `descriptors`, which may be called in any.

    Args:
        directory: Where the files are; it is made if it is not there.

    Raises:
        InsecureDirectoryError: The directory is not ours alone.
        ClusterStartError: It cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        make_runtime_root(directory)
        check_directory(directory)
        self._directory = directory
        self._held: dict[str, int] = {}

    @property
    def directory(self) -> Path:
        """Where the files are: ours alone."""
        return self._directory

    def take(self, uuids: list[str]) -> dict[str, str]:
        """Lock devices, all of them or none but those that are locked already.

        Returns:
            Why a device could not be locked, in words, by UUID; empty if all are locked now.
        """
        taken: list[str] = []
        for uuid in sorted(uuids):  # in one order everywhere, so that two clusters do not wait for each other
            if uuid in self._held:
                continue
            refusal = self._lock(uuid)
            if refusal:
                self.release(taken)
                return {uuid: refusal}
            taken.append(uuid)
        return {}

    def _lock(self, uuid: str) -> str:
        """Lock one device. Returns why that could not be, or nothing."""
        while True:
            try:
                descriptor = open_private(self._path(uuid), os.O_RDWR | os.O_CREAT)
            except (OSError, InsecureDirectoryError) as error:
                return f"not to be locked: {error}"
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refusal = _described(descriptor)
                os.close(descriptor)
                return refusal
            if self._is_current(uuid, descriptor):
                break
            os.close(descriptor)  # somebody removed the file in between: what we have locked, nobody else will see
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        self._held[uuid] = descriptor
        return ""

    def _is_current(self, uuid: str, descriptor: int) -> bool:
        try:
            there = self._path(uuid).stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def held_elsewhere(self, uuid: str) -> str:
        """Return by whom else a device is locked now, in words; empty if by nobody, or by us."""
        if uuid in self._held:
            return ""
        try:
            descriptor = open_private(self._path(uuid), os.O_RDONLY)
        except FileNotFoundError:
            return ""
        except (OSError, InsecureDirectoryError) as error:
            return f"not to be locked: {error}"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(descriptor)
        finally:
            os.close(descriptor)
        return ""

    def descriptors(self, uuids: list[str]) -> list[int]:
        """Return the descriptors of the locks of devices, for a worker to inherit. All are locked."""
        return [self._held[uuid] for uuid in uuids]

    def release(self, uuids: list[str]) -> None:
        """Let go of devices; those of their workers that live still hold them."""
        for uuid in uuids:
            descriptor = self._held.pop(uuid, None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of all."""
        self.release(list(self._held))

    def _path(self, uuid: str) -> Path:
        return self._directory / f"{file_name_of(uuid)}.lock"


def file_name_of(uuid: str) -> str:
    """Return the name of a device for files: the UUIDs of old MIG instances have slashes."""
    return uuid.replace("/", "_")


def _described(descriptor: int) -> str:
    """Return who holds a lock that we did not get, in words."""
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace")
    pid = int(text) if text.isdigit() else 0
    if pid and processes.session_of(pid) is not None:
        return f"held by another cluster of yours (its node agent is process {pid})"
    return "held by a worker whose node agent has ended"


def open_locks(chosen: Path | None, session_directory: Path, *, simulated: bool) -> DeviceLocks:
    """Return the locks of this node's devices.

    Args:
        chosen: Where the settings want them; None for the usual place.
        session_directory: Of the cluster. Simulated devices are each cluster's own, and are locked there.
        simulated: Whether the devices are.

    Raises:
        InsecureDirectoryError: The place is not ours alone.
        ClusterStartError: There is no place for them.
    """
    if chosen is not None:
        return DeviceLocks(chosen)
    if simulated:
        return DeviceLocks(session_directory / LOCKS)
    # Whatever ATOLL_RUNTIME_DIR says: two clusters of one user that do not know each other must find the same locks.
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    try:
        return DeviceLocks(home / ".local" / "share" / "jupyter" / "runtime" / LOCKS)
    except (ClusterStartError, InsecureDirectoryError, OSError) as error:
        _logger.warning("devices are locked in %s: %s", runtime_root(), error)
        return DeviceLocks(runtime_root() / LOCKS)

"""Segments of shared memory, as Linux makes them: memfds, sealed in size, reserved before anybody touches them.

* Nothing has a name: a segment is reached through a descriptor that came over a proved connection (claim S7).
* Readers get a descriptor that was opened read-only. Through it the memory cannot be mapped for writing, now or by
  mprotect; the file's mode keeps others from opening it anew for writing; its size is sealed (claim S8).
* All memory is reserved at once, in pieces, in a thread. A host that has none to give says so there, and nobody dies
  of SIGBUS later (claims R11, R12). What the host has left is looked at before each piece, since a reservation that
  it cannot hold would bring its out-of-memory killer, not an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

from atoll.resources import format_bytes

CHUNK_BYTES = 32 * 2**20
"""Reserved in one go: about 30 ms on a slow host, after which a segment that was given up meanwhile stops."""

HOST_RESERVE_BYTES = 256 * 2**20
"""Left to the host."""

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


class SegmentError(Exception):
    """The memory cannot be had; the message is one line for the user."""


def available_bytes() -> int:
    """Return how much memory the host can still give, without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**62


class SharedSegment:
    """One segment. Threads may reserve, cut and close it at once: a descriptor's number is another's once it is closed.

    Args:
        size_bytes: Its size, in whole pages.

    Raises:
        SegmentError: Not even the file can be made.

    Attributes:
        writable: A descriptor to write through.
        readable: A descriptor that can only be read through.
        size_bytes: Its size.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.given_up = False
        self._lock = threading.Lock()
        try:
            self.writable = os.memfd_create("atoll", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise SegmentError(f"no shared memory can be made: {error.strerror}") from None
        try:
            os.ftruncate(self.writable, size_bytes)
            fcntl.fcntl(self.writable, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.fchmod(self.writable, 0o400)
            self.readable = os.open(f"/proc/self/fd/{self.writable}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(self.writable)
            raise SegmentError(
                f"shared memory of {format_bytes(size_bytes)} cannot be made: {error.strerror}"
            ) from None

    def reserve(self, available: Callable[[], int] = available_bytes) -> None:
        """Reserve all of the memory. May run in any thread; stops early once `given_up` is set.

        Raises:
            SegmentError: The host has no more. What was reserved goes when the segment is closed.
        """
        position = 0
        while position < self.size_bytes and not self.given_up:
            size = min(CHUNK_BYTES, self.size_bytes - position)
            left = available() - HOST_RESERVE_BYTES
            if left < size:
                raise SegmentError(
                    f"the host has no memory left for {format_bytes(self.size_bytes)}: "
                    f"{format_bytes(max(0, left))} of it are available"
                )
            try:
                with self._lock:
                    if self.writable < 0:
                        return
                    os.posix_fallocate(self.writable, position, size)
            except OSError as error:
                raise SegmentError(
                    f"the host gives no memory for {format_bytes(self.size_bytes)}: {error.strerror}"
                ) from None
            position += size

    def cut(self, size_bytes: int) -> None:
        """Give the memory beyond a size back to the host. Nobody may have anything there."""
        with self._lock:
            if self.writable >= 0:
                _punch(self.writable, size_bytes, self.size_bytes - size_bytes)

    def close(self) -> None:
        """Give the memory back to the host, also where processes still have it mapped. May be called twice.

        Whoever still maps it has no object there any more; only the addresses stay until it unmaps them.
        """
        with self._lock:
            if self.writable < 0:
                return
            with contextlib.suppress(OSError):
                _punch(self.writable, 0, self.size_bytes)
            os.close(self.writable)
            os.close(self.readable)
            self.writable = self.readable = -1


def _punch(descriptor: int, offset: int, size_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(size_bytes)):
        raise OSError(ctypes.get_errno(), "fallocate")

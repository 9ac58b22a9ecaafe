"""Sealed objects that look writable: private, copy-on-write mappings of shared memory.

In a cell a user expects to write to what is theirs, and a sealed object's bytes never change. So the pages that hold
an array are mapped once more, private: reading costs nothing, and a page that is written becomes this process's own
copy of it. Which pages those are, the system knows (`/proc/self/pagemap`: a page of one's own is no page of a file any
more), so that "was it changed, and where" is answered without reading the data. Where the system does not tell, the
bytes are compared.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Callable

from atoll.exceptions import ObjectStoreFullError

PAGE_BYTES = mmap.PAGESIZE

_FILE_PAGE = 1 << 61
_THERE = 3 << 62
"""Bits of an entry of the page map: of a file or shared; present, or swapped out."""

_MAP_NORESERVE = 0x4000
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_memcmp = _libc.memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def same_bytes(first: int, second: int, size_bytes: int) -> bool:
    """Whether the memory at two addresses of this process is equal."""
    return size_bytes == 0 or _memcmp(first, second, size_bytes) == 0


class PrivateMapping:
    """A part of a segment, mapped so that writing to it changes nothing but this process's own view.

    Args:
        descriptor: Of the segment; reading is enough. Stays the caller's.
        offset: Of the part in the segment.
        size_bytes: Of the part.
        sealed: Address of the same part in the segment's shared mapping.
        keep: Lives as long as the mapping: what pins the object.

    Attributes:
        address: Of the part.
        size_bytes: Of the part.
        origin: Whatever the caller wants to know of where the bytes came from.

    Raises:
        ObjectStoreFullError: The process has no room for the mapping.
    """

    def __init__(self, descriptor: int, offset: int, size_bytes: int, sealed: int, keep: object) -> None:
        before = offset % PAGE_BYTES
        length = size_bytes + before
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        start = _mmap(None, length, protection, mmap.MAP_PRIVATE | _MAP_NORESERVE, descriptor, offset - before)
        if start in (None, _FAILED):
            reason = os.strerror(ctypes.get_errno())
            raise ObjectStoreFullError(f"cannot map {size_bytes} bytes of shared memory: {reason}")
        self.address: int = start + before
        self.size_bytes = size_bytes
        self.origin: object = None
        self._sealed = sealed
        exporter = (ctypes.c_ubyte * size_bytes).from_address(self.address)
        finalizer = weakref.finalize(exporter, _gone, start, length, self.address, keep)
        finalizer.atexit = False
        self._view: memoryview | None = memoryview(exporter).cast("B")
        with _lock:
            _mappings[self.address] = self

    def take_view(self) -> memoryview:
        """Return the memory, once. The mapping lives until nothing made from the view is left."""
        view, self._view = self._view, None
        assert view is not None, "the view is taken once"
        return view

    def changed_runs(self, start: int, size_bytes: int) -> list[tuple[int, int]]:
        """Return which bytes may have been written to: begin and end of each run, in bytes from `start`."""
        first = self.address + start
        pages = _own_pages(first, size_bytes)
        if pages is None:
            pages = self._compared_pages(first, size_bytes)
        runs: list[tuple[int, int]] = []
        base = first - first % PAGE_BYTES
        for page in pages:
            begin = max(0, base + page * PAGE_BYTES - first)
            end = min(size_bytes, base + (page + 1) * PAGE_BYTES - first)
            if runs and runs[-1][1] == begin:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((begin, end))
        return runs

    def _compared_pages(self, first: int, size_bytes: int) -> list[int]:
        """Find the changed pages by their content."""
        sealed = self._sealed + (first - self.address)
        if same_bytes(first, sealed, size_bytes):
            return []
        base = first - first % PAGE_BYTES
        found = []
        for page in range((first + size_bytes - 1 - base) // PAGE_BYTES + 1):
            begin = max(first, base + page * PAGE_BYTES)
            end = min(first + size_bytes, base + (page + 1) * PAGE_BYTES)
            if not same_bytes(begin, sealed + begin - first, end - begin):
                found.append(page)
        return found


_mappings: dict[int, PrivateMapping] = {}
_lock = threading.RLock()


def _gone(start: int, length: int, address: int, _keep: object) -> None:
    with _lock:
        _mappings.pop(address, None)
        _munmap(start, length)


def mapping_at(address: int, size_bytes: int) -> PrivateMapping | None:
    """Return the private mapping that a piece of memory lies in, or None."""
    with _lock:
        for mapping in _mappings.values():
            if mapping.address <= address and address + size_bytes <= mapping.address + mapping.size_bytes:
                return mapping
    return None


def _own_pages(address: int, size_bytes: int) -> list[int] | None:
    """Return the numbers of this process's own pages in a piece of memory; None if the system does not tell."""
    base = address // PAGE_BYTES
    count = (address + size_bytes - 1) // PAGE_BYTES - base + 1
    try:
        descriptor = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        entries = os.pread(descriptor, count * 8, base * 8)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(entries) != count * 8 or not _told():
        return None
    return [page for page, entry in enumerate(array.array("Q", entries)) if entry & _THERE and not entry & _FILE_PAGE]


_probed: list[bool] = []


def _told() -> bool:
    """Whether this system's page map tells own pages from shared ones: tried once, on a mapping of two pages."""
    if not _probed:
        _probed.append(True)  # the probe itself asks
        try:
            _probed[0] = _probe(_own_pages)
        except OSError:
            _probed[0] = False
    return _probed[0]


def _probe(own_pages: Callable[[int, int], list[int] | None]) -> bool:
    descriptor = os.memfd_create("atoll-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, 2 * PAGE_BYTES)
        os.pwrite(descriptor, b"x" * 2 * PAGE_BYTES, 0)
        with mmap.mmap(descriptor, 2 * PAGE_BYTES, mmap.MAP_PRIVATE) as memory:
            exporter = ctypes.c_ubyte.from_buffer(memory)
            address = ctypes.addressof(exporter)
            memory[0] = memory[PAGE_BYTES]  # writes the first page, reads the second
            del exporter
            return own_pages(address, 2 * PAGE_BYTES) == [0]
    finally:
        os.close(descriptor)

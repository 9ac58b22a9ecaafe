"""Segments of shared memory, mapped into this process: written once, read without a copy.

A segment is a memfd that the node agent owns. Its descriptor comes over the agent's socket, is mapped, and closed; the
mapping is kept, since the agent uses segments again and again and mapping a gigabyte costs milliseconds.

Readers map what the descriptor allows: reading only. A view that is handed out keeps its object pinned: every array or
table made from it holds, through the buffer protocol, the small ctypes object that exports the memory, and when the
last of them goes that object's finalizer says so. `mmap.mmap` cannot do this for parts of a mapping before Python
3.12, which is why libc's mmap is called here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from atoll.exceptions import ObjectStoreFullError

PARALLEL_COPY_BYTES = 8 * 2**20
"""Larger copies are shared between threads: one core does not fill the memory bus."""

_MADV_POPULATE_READ = 22
_MADV_POPULATE_WRITE = 23
_PAGE_BYTES = mmap.PAGESIZE
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_madvise = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_memmove = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
    ctypes.cast(_libc.memmove, ctypes.c_void_p).value or 0
)
"""memmove through CFUNCTYPE releases the GIL; `ctypes.memmove` does too, but checks its arguments in Python."""


class Segment:
    """A mapping of a whole segment.

    Args:
        descriptor: Of the memfd; stays the caller's.
        size_bytes: To map.
        writable: Whether to map for writing: only with the descriptor that the agent gives to writers.

    Raises:
        ObjectStoreFullError: The process has no room for the mapping.
    """

    __slots__ = ("__weakref__", "address", "size_bytes", "touched", "writable")

    def __init__(self, descriptor: int, size_bytes: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        sharing = mmap.MAP_SHARED if writable else mmap.MAP_PRIVATE
        address = _mmap(None, size_bytes, protection, sharing, descriptor, 0)
        if address in (None, _FAILED):
            reason = os.strerror(ctypes.get_errno())
            raise ObjectStoreFullError(f"cannot map {size_bytes} bytes of shared memory: {reason}")
        self.address: int = address
        self.size_bytes = size_bytes
        self.writable = writable
        self.touched = False

    def touch(self, copier: Copier) -> None:
        """Enter all pages into this process's page table at once, which costs a tenth of a fault for each.

        A kernel that does not know how (before 5.14) does it by faults, later.
        """
        if not self.touched:
            self.touched = True
            advice = _MADV_POPULATE_WRITE if self.writable else _MADV_POPULATE_READ
            copier.share(self.size_bytes, lambda start, size: _madvise(self.address + start, size, advice))

    def touch_ahead(self, copier: Copier) -> None:
        """As `touch`, in another thread, while this one goes on: mapping costs microseconds, touching milliseconds."""
        if not self.touched:
            self.touched = True
            copier.later(lambda: _madvise(self.address, self.size_bytes, _MADV_POPULATE_READ))

    def unmap(self) -> None:
        """Give the addresses back. No view of this segment may be left."""
        _munmap(self.address, self.size_bytes)

    def unmap_when_unused(self) -> None:
        """Give the addresses back when neither a view nor anything else refers to this segment any more."""
        weakref.finalize(self, _munmap, self.address, self.size_bytes).atexit = False

    def write(self, offset: int, data: bytes | memoryview, copier: Copier) -> None:
        """Copy bytes into the segment."""
        size = len(data) if isinstance(data, bytes) else data.nbytes
        assert self.writable
        assert offset >= 0
        assert offset + size <= self.size_bytes
        if size:
            copier.copy(self.address + offset, data)

    def view(self, offset: int, size_bytes: int, on_release: Callable[[], object]) -> memoryview:
        """Return a read-only view of a part; `on_release` is called when nothing made from it is left.

        `on_release` runs wherever the garbage collector runs: it must not lock, block or raise.
        """
        return self._export(offset, size_bytes, on_release).toreadonly()

    def writable_view(self, offset: int, size_bytes: int, on_release: Callable[[], object]) -> memoryview:
        """As `view`, to write through."""
        assert self.writable
        return self._export(offset, size_bytes, on_release)

    def _export(self, offset: int, size_bytes: int, on_release: Callable[[], object]) -> memoryview:
        exporter = (ctypes.c_ubyte * size_bytes).from_address(self.address + offset)
        finalizer = weakref.finalize(exporter, _released, self, on_release)
        finalizer.atexit = False
        return memoryview(exporter).cast("B")


def _released(_segment: Segment, on_release: Callable[[], object]) -> None:
    """Nothing made from a view is left. It has kept its segment until now."""
    on_release()


def address_of(data: bytes | memoryview) -> int:
    """Return where a contiguous buffer's memory begins."""
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    return buffer_address(data)


class _PyBuffer(ctypes.Structure):
    """`Py_buffer` of the C API: only `buf` is read here."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def buffer_address(view: memoryview) -> int:
    """Return where a contiguous buffer's memory begins, also a read-only one's."""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    try:
        return buffer.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


class Copier:
    """Copies large buffers with as many threads as there are cores, up to four."""

    def __init__(self) -> None:
        self._count = max(1, min(4, len(os.sched_getaffinity(0))))
        self._threads: ThreadPoolExecutor | None = None

    def copy(self, target: int, data: bytes | memoryview) -> None:
        """Copy bytes to an address of this process."""
        size = len(data) if isinstance(data, bytes) else data.nbytes
        source = address_of(data)
        self.share(size, lambda start, part: _memmove(target + start, source + start, part))

    def share(self, size: int, work: Callable[[int, int], object]) -> None:
        """Do something for each part of so many bytes, in several threads if they are many.

        Args:
            size: In bytes.
            work: Takes where a part begins, at a whole page, and its size; lets other threads run meanwhile.
        """
        if size < PARALLEL_COPY_BYTES or self._count == 1:
            work(0, size)
            return
        part = -(-size // self._count // _PAGE_BYTES) * _PAGE_BYTES
        pending = [self.later(partial(work, start, min(part, size - start))) for start in range(part, size, part)]
        work(0, min(part, size))
        for future in pending:
            future.result()

    def later(self, work: Callable[[], object]) -> Future[object]:
        """Have a thread do something; in an interpreter that ends, and has no threads to give, this one does it."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max_workers=self._count, thread_name_prefix="atoll-copy")
        try:
            return self._threads.submit(work)
        except RuntimeError:
            done: Future[object] = Future()
            done.set_result(work())
            return done

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

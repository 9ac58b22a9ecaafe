"""The memory of large values on their way between kernel and worker: shared where it can be, sent once, never stale.

To a worker (`share`): a large buffer becomes an object of the store, and a `StoredBuffer` travels in its place. The
kernel remembers what it has stored. When the same memory is to travel again, it is compared with what is stored, byte
by byte; it travels anew only if it differs. So a change made in place is always seen, and no hash can collide.

Arriving (`writable`): the bytes are mapped privately, copy on write. What came from a worker and was not written to
since need not be stored again, nor compared: the system knows which pages were written.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from atoll.client.current import existing_session
from atoll.client.mapping import buffer_address
from atoll.client.private_mapping import mapping_at, same_bytes
from atoll.exceptions import ObjectStoreFullError

SHARED_BYTES = 256 * 1024
"""Smaller buffers travel in the request, where a copy costs less than an object."""

KEPT_PART = 4
"""At most one part in so many of the store's capacity is kept for memory that may travel again."""

DEFAULT_KEPT_BYTES = 512 * 2**20


class StoredBuffer(NamedTuple):
    """A buffer that is in the store.

    Attributes:
        ref: The object: a buffer, or a cell's result, which has several.
        place: Which of the result's buffers; -1 for an object that is the buffer.
        start: Where it begins in that buffer.
        size_bytes: How long it is.
    """

    ref: Any
    place: int
    start: int
    size_bytes: int


class _Origin(NamedTuple):
    """Where the bytes of a private mapping came from."""

    ref: Any
    place: int


_by_name: dict[str, bytes] = {}
"""Objects that this process has by a name in the cluster, which alone keeps them for others."""

_gone: set[bytes] = set()
"""Those whose names it has taken away since: what is mapped of them stays, and no worker can have it any more."""


def came_by_name(name: str, ref: Any) -> None:
    """Note that an object belongs to the cluster, by a name."""
    _by_name[name] = ref.binary()


def name_is_gone(name: str) -> None:
    """Note that a name was taken away: what came with its object is stored anew when it is to travel again."""
    object_id = _by_name.pop(name, None)
    if object_id is not None:
        _gone.add(object_id)


def writable(buffer: Any, ref: Any = None, place: int = -1) -> Any:
    """Return a buffer's bytes so that they can be written to, without a copy where the system can.

    Args:
        buffer: Read-only.
        ref: The object that it is part of, if that is known; so a cell that reads it later need not be sent it.
        place: As in `StoredBuffer`.
    """
    view = memoryview(buffer)
    session = existing_session()
    if view.nbytes >= SHARED_BYTES and session is not None:
        mapping = session.store.private(view)
        if mapping is not None:
            mapping.origin = _Origin(ref, place) if ref is not None else None
            return mapping.take_view()
    return bytearray(view)


def token(buffer: memoryview) -> tuple[Any, ...]:
    """Return what tells whether memory was changed since: equal tokens of one process mean equal bytes."""
    address = buffer_address(buffer)
    mapping = mapping_at(address, buffer.nbytes) if buffer.nbytes >= SHARED_BYTES else None
    hasher = hashlib.blake2b(digest_size=16)
    if mapping is None:
        hasher.update(buffer)
        return ("digest", buffer.nbytes, hasher.digest())
    # What was not written is the sealed object's, and never changes: only the rest is read.
    runs = mapping.changed_runs(address - mapping.address, buffer.nbytes)
    for begin, end in runs:
        hasher.update(buffer[begin:end])
    return ("written", address, buffer.nbytes, *runs, hasher.digest())


def sealed_place(view: memoryview) -> tuple[Any, ...] | None:
    """Return which bytes of which object of the store a piece of memory is, if nobody has written to it; else None.

    What is returned stands for these bytes for good: an object's never change, and its id is not used again.
    """
    address = buffer_address(view)
    mapping = mapping_at(address, view.nbytes)
    if mapping is None or not isinstance(mapping.origin, _Origin):
        return None
    start = address - mapping.address
    if mapping.changed_runs(start, view.nbytes):
        return None
    return (mapping.origin.ref.binary(), mapping.origin.place, start, view.nbytes)


def dirty_runs(buffer: memoryview) -> list[tuple[int, bytes]] | None:
    """Return the pieces of private memory that were written to, with where they begin; None for other memory."""
    address = buffer_address(buffer)
    mapping = mapping_at(address, buffer.nbytes) if buffer.nbytes >= SHARED_BYTES else None
    if mapping is None:
        return None
    runs = mapping.changed_runs(address - mapping.address, buffer.nbytes)
    if sum(end - begin for begin, end in runs) > buffer.nbytes // 2:
        return None
    return [(begin, bytes(buffer[begin:end])) for begin, end in runs]


def arrived(buffers: list[Any], get: Callable[[Any], Any]) -> list[Any]:
    """Return buffers with those that are in the store looked up.

    Args:
        buffers: As they travelled.
        get: Returns an object's value.
    """
    values: dict[int, Any] = {}
    found = []
    for buffer in buffers:
        if isinstance(buffer, StoredBuffer):
            key = id(buffer.ref)
            if key not in values:
                values[key] = get(buffer.ref)
            value = values[key] if buffer.place < 0 else values[key].names.buffers[buffer.place]
            found.append(memoryview(value)[buffer.start : buffer.start + buffer.size_bytes])
        else:
            found.append(buffer)
    return found


class _Kept(NamedTuple):
    """What is stored of a piece of this process's memory."""

    ref: Any
    view: memoryview


class SharedMemory:
    """What a kernel has stored of its memory, so that it travels once.

    Args:
        put: Makes a buffer an object and returns its ref.
        get: Returns an object's value, here a view.
        kept_bytes: How much is kept at most; what was used longest ago goes first.
    """

    def __init__(self, put: Callable[[Any], Any], get: Callable[[Any], Any], kept_bytes: int) -> None:
        self._put = put
        self._get = get
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()

    def share(self, buffers: list[Any]) -> list[Any]:
        """Return buffers with the large ones replaced by what is stored of them."""
        return [self._shared(buffer) for buffer in buffers]

    def _shared(self, buffer: Any) -> Any:
        view = buffer.raw() if hasattr(buffer, "raw") else memoryview(buffer)
        if view.nbytes < SHARED_BYTES:
            return buffer
        address = buffer_address(view)
        mapping = mapping_at(address, view.nbytes)
        if mapping is not None and isinstance(mapping.origin, _Origin) and mapping.origin.ref.binary() not in _gone:
            start = address - mapping.address
            if not mapping.changed_runs(start, view.nbytes):
                return StoredBuffer(mapping.origin.ref, mapping.origin.place, start, view.nbytes)
        key = (address, view.nbytes)
        kept = self._kept.get(key)
        if kept is not None and same_bytes(address, buffer_address(kept.view), view.nbytes):
            self._kept.move_to_end(key)
            return StoredBuffer(kept.ref, -1, 0, view.nbytes)
        self._kept.pop(key, None)
        del kept
        return self._store(key, buffer, view)

    def _store(self, key: tuple[int, int], buffer: Any, view: memoryview) -> Any:
        try:
            ref = self._put(buffer)
        except ObjectStoreFullError:
            if not self._kept:
                raise
            self._kept.clear()
            ref = self._put(buffer)
        self._kept[key] = _Kept(ref, memoryview(self._get(ref)))
        self._forget_with(view, key)
        while sum(size for _address, size in self._kept) > self._kept_bytes:
            self._kept.popitem(last=False)
        return StoredBuffer(ref, -1, 0, view.nbytes)

    def _forget_with(self, view: memoryview, key: tuple[int, int]) -> None:
        """Drop what is stored when the memory's owner goes."""
        owner: Any = view.obj
        while getattr(owner, "base", None) is not None and not isinstance(owner.base, (bytes, memoryview)):
            owner = owner.base
        try:
            finalizer = weakref.finalize(owner, self._drop, key)
        except TypeError:  # bytes and the like cannot be watched; they go when there is no room
            return
        finalizer.atexit = False

    def _drop(self, key: tuple[int, int]) -> None:
        self._kept.pop(key, None)

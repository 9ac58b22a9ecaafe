"""Memory that travels once and is never stale; private mappings of it."""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import pytest

from atoll.client import private_mapping
from atoll.client.mapping import Segment
from atoll.client.private_mapping import PAGE_BYTES, PrivateMapping, mapping_at
from atoll.exceptions import ObjectStoreFullError
from atoll.kernel_ext.buffers import SharedMemory, StoredBuffer, dirty_runs, token


class Store:
    """Keeps copies, as the cluster's store does."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.puts = 0
        self.room = room
        self.objects: list[bytes] = []

    def put(self, buffer: Any) -> int:
        data = bytes(buffer.raw())
        if sum(map(len, self.objects)) + len(data) > self.room:
            raise ObjectStoreFullError("full")
        self.puts += 1
        self.objects.append(data)
        return len(self.objects) - 1

    def get(self, ref: int) -> memoryview:
        return memoryview(self.objects[ref])


def buffers_of(array: Any) -> list[pickle.PickleBuffer]:
    return [pickle.PickleBuffer(array)]


def test_memory_that_was_not_changed_travels_once() -> None:
    store, array = Store(), np.arange(100_000)
    shared = SharedMemory(store.put, store.get, 1 << 30)
    first = shared.share(buffers_of(array))
    assert first == [StoredBuffer(0, -1, 0, array.nbytes)]
    assert shared.share(buffers_of(array)) == first
    assert store.puts == 1


@pytest.mark.parametrize("where", [0, 50_000, 99_999])
def test_a_change_in_place_is_seen(where: int) -> None:
    store, array = Store(), np.arange(100_000)
    shared = SharedMemory(store.put, store.get, 1 << 30)
    shared.share(buffers_of(array))
    array[where] = -1
    (sent,) = shared.share(buffers_of(array))
    assert np.array_equal(np.frombuffer(store.get(sent.ref), array.dtype), array)


def test_small_buffers_travel_in_the_request() -> None:
    store, array = Store(), np.arange(100)
    (buffer,) = SharedMemory(store.put, store.get, 1 << 30).share(buffers_of(array))
    assert isinstance(buffer, pickle.PickleBuffer)
    assert store.puts == 0


def test_what_is_kept_goes_with_its_owner_and_when_there_is_too_much() -> None:
    store = Store()
    shared = SharedMemory(store.put, store.get, 2_000_000)
    array = np.arange(100_000)
    shared.share(buffers_of(array[10:]))
    assert len(shared._kept) == 1
    del array
    assert len(shared._kept) == 0
    arrays = [np.full(100_000, k) for k in range(4)]
    for each in arrays:
        shared.share(buffers_of(each))
    assert len(shared._kept) == 2


def test_a_full_store_is_asked_again_when_nothing_is_kept() -> None:
    store = Store(room=1_000_000)
    shared = SharedMemory(store.put, store.get, 1 << 30)
    first, second = np.zeros(100_000), np.ones(100_000)
    shared.share(buffers_of(first))
    store.objects.clear()
    shared.share(buffers_of(second))
    with pytest.raises(ObjectStoreFullError):
        shared.share(buffers_of(np.ones(1_000_000)))


@pytest.fixture
def sealed() -> Any:
    """A segment of 200 pages, as a reader has it."""
    size = 200 * PAGE_BYTES
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, b"a" * size, 0)
    segment = Segment(descriptor, size, writable=False)
    yield descriptor, segment
    segment.unmap()
    os.close(descriptor)


@pytest.mark.parametrize("told", [True, False])
def test_a_private_mapping_knows_what_was_written(sealed: Any, told: bool, monkeypatch: Any) -> None:
    if not told:
        monkeypatch.setattr(private_mapping, "_own_pages", lambda *_: None)
    descriptor, segment = sealed
    offset, size = PAGE_BYTES + 64, 100 * PAGE_BYTES
    mapping = PrivateMapping(descriptor, offset, size, segment.address + offset, None)
    view = mapping.take_view()
    untouched = token(view)
    assert bytes(view) == b"a" * size
    assert mapping.changed_runs(0, size) == []
    assert token(view) == untouched
    view[10] = view[2 * PAGE_BYTES] = view[size - 1] = 98
    runs = dirty_runs(view)
    assert runs is not None
    assert sum(len(data) for _start, data in runs) <= 4 * PAGE_BYTES
    again = bytearray(b"a" * size)
    for start, data in runs:
        again[start : start + len(data)] = data
    assert again == view
    assert token(view) != untouched
    assert os.pread(descriptor, 200 * PAGE_BYTES, 0) == b"a" * 200 * PAGE_BYTES, "the sealed bytes stay"


def test_a_private_mapping_lives_as_long_as_what_is_made_of_it(sealed: Any) -> None:
    descriptor, segment = sealed
    mapping = PrivateMapping(descriptor, 0, 10 * PAGE_BYTES, segment.address, None)
    address = mapping.address
    array = np.frombuffer(mapping.take_view(), np.uint8)[5:]
    assert mapping_at(address, 10) is mapping
    del mapping
    assert array[0] == 97
    del array
    assert mapping_at(address, 10) is None

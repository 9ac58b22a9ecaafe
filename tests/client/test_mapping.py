"""Segments of shared memory in this process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atoll.client.mapping import PARALLEL_COPY_BYTES, Copier, Segment
from atoll.exceptions import ObjectStoreFullError


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, 2 * PARALLEL_COPY_BYTES)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def copier() -> Iterator[Copier]:
    made = Copier()
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 1, 4097, PARALLEL_COPY_BYTES + 4099])
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_written_is_read_through_another_mapping(
    memory: int, copier: Copier, size: int, read_only: bool
) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, dtype="u1").tobytes()
    data = memoryview(content) if read_only else memoryview(bytearray(content))
    writer = Segment(memory, 2 * PARALLEL_COPY_BYTES, writable=True)
    reader = Segment(memory, 2 * PARALLEL_COPY_BYTES, writable=False)
    writer.write(64, data, copier)
    view = reader.view(64, size, lambda: None)
    assert bytes(view) == content
    del view
    writer.unmap()
    reader.unmap()


def test_a_view_is_released_when_the_last_array_of_it_is_gone(memory: int) -> None:
    segment = Segment(memory, 4096, writable=False)
    released: list[int] = []
    view = segment.view(0, 4096, lambda: released.append(1))
    array = np.frombuffer(view[128:256], dtype="u1")
    part = array[3:9]
    del view, array
    gc.collect()
    assert released == []
    assert not part.flags.writeable
    del part
    gc.collect()
    assert released == [1]
    segment.unmap()


def test_a_mapping_that_is_impossible_is_an_error_of_the_store(memory: int) -> None:
    with pytest.raises(ObjectStoreFullError, match="cannot map"):
        Segment(memory, 1 << 60, writable=False)


def test_a_reader_sees_what_is_written_later_and_cannot_write(memory: int, copier: Copier) -> None:
    writer = Segment(memory, 4096, writable=True)
    reader = Segment(memory, 4096, writable=False)
    view = reader.view(0, 5, lambda: None)
    for content in (b"first", b"later"):
        writer.write(0, content, copier)
        assert bytes(view) == content
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1
    assert protection(reader.address) == "r--p"
    writer.unmap()
    reader.unmap()


def protection(address: int) -> str:
    """Return how a page of this process is mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return line.split()[1]
    return ""


def test_touching_enters_all_pages(memory: int, copier: Copier) -> None:
    for writable in (True, False):
        segment = Segment(memory, PARALLEL_COPY_BYTES, writable=writable)
        assert resident_kib(segment.address) == 0, "mapping alone enters none"
        segment.touch(copier)
        assert resident_kib(segment.address) == PARALLEL_COPY_BYTES // 1024
        segment.unmap()
    assert protection(segment.address) == ""


def resident_kib(address: int) -> int:
    """Return how much of a mapping is in this process's page table."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:x}-"):
            return next(int(later.split()[1]) for later in lines if later.startswith("Rss:"))
    raise AssertionError("it is not mapped")

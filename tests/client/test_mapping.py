"""Segments of shared memory in this process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

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

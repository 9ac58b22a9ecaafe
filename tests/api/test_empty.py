"""`atoll.empty`: an array that is in the store from the beginning."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import atoll
from atoll.client.session import Session

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]

MIB = 2**20


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def same_memory(session: Session, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether both lie at one place of one segment; each process maps a segment to be written and to be read."""

    def place(array: np.ndarray[Any, Any]) -> tuple[int, int]:
        for (segment_id, _writable), segment in session.store._segments.items():
            if 0 <= address(array) - segment.address < segment.size_bytes:
                return segment_id, address(array) - segment.address
        raise AssertionError("it is not in the store")

    return place(one) == place(other)


def test_putting_it_copies_nothing_and_makes_it_read_only(session: Session) -> None:
    array = atoll.empty((1000, 1000), "f8")
    assert array.shape == (1000, 1000)
    assert array.flags.writeable
    array[:] = np.arange(1_000_000).reshape(1000, 1000)
    ref = atoll.put(array)
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    got = atoll.get(ref)
    assert same_memory(session, got, array)
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True
    np.testing.assert_array_equal(got, np.arange(1_000_000).reshape(1000, 1000))


def test_another_process_reads_what_was_written() -> None:
    array = atoll.empty(300_000, np.int64)
    array[:] = np.arange(300_000)

    @atoll.remote
    def total(array: np.ndarray[Any, Any]) -> int:
        return int(array.sum())

    assert atoll.get(total.remote(atoll.put(array))) == sum(range(300_000))


def test_a_view_of_the_whole_and_a_small_container_are_put_without_a_copy(session: Session) -> None:
    wide = atoll.empty((500, 400))
    wide[:] = 1.5
    got = atoll.get(atoll.put(wide.T))
    assert got.shape == (400, 500)
    assert same_memory(session, got, wide)
    assert not wide.flags.writeable, "it is the same memory"

    flat = atoll.empty(200_000)
    flat[:] = 2.5
    named = atoll.get(atoll.put({"x": flat, "n": 3}))
    assert same_memory(session, named["x"], flat)
    assert named["n"] == 3

    fortran = atoll.empty((500, 400), order="F")
    fortran[:] = 3.5
    got = atoll.get(atoll.put(fortran))
    assert got.flags.f_contiguous
    assert same_memory(session, got, fortran)


def test_what_could_still_be_written_to_is_copied(session: Session) -> None:
    array = atoll.empty(300_000)
    array[:] = 1.0
    part = array[10:]
    got = atoll.get(atoll.put(array))
    assert not same_memory(session, got, array)
    part[:] = 2.0
    assert got.max() == 1.0
    assert array.max() == 2.0
    got = atoll.get(atoll.put(part))
    assert got.shape == (299_990,)
    del part
    assert same_memory(session, atoll.get(atoll.put(array)), array), "the view is gone"


def test_a_task_gets_a_copy_and_the_array_stays_ours() -> None:
    @atoll.remote
    def first(array: np.ndarray[Any, Any]) -> float:
        return float(array[0])

    array = atoll.empty(300_000)
    for number in (1.0, 2.0):
        array[:] = number
        assert atoll.get(first.remote(array)) == number


def test_the_array_keeps_the_object_and_the_object_the_array(session: Session) -> None:
    array = atoll.empty(500_000)
    array[:] = 7.0
    ref = atoll.put(array)
    got = atoll.get(ref)
    del array, ref
    gc.collect()
    others = [atoll.put(np.zeros(500_000)) for _ in range(5)]
    assert got.min() == 7.0
    del got, others

    array = atoll.empty(500_000)
    array[:] = 8.0
    atoll.put(array)
    gc.collect()
    others = [atoll.put(np.zeros(500_000)) for _ in range(5)]
    assert array.min() == 8.0, "the ref is gone, and the memory is still viewed"
    del others


def test_memory_that_is_never_put_goes_back() -> None:
    array = atoll.empty(100 * MIB, "u1")
    array[:5] = 1
    part = array[3:5]
    del array
    assert part.tolist() == [1, 1]
    del part
    whole = atoll.empty(240 * MIB, "u1")  # there are 256 MiB in all
    whole[-1] = 1
    del whole
    assert atoll.empty(240 * MIB, "u1").flags.writeable


def test_small_ones_are_ordinary_arrays_and_objects_are_refused() -> None:
    small = atoll.empty((3, 4), "i4")
    small[:] = 5
    assert atoll.get(atoll.put(small)).sum() == 60
    assert small.flags.writeable
    with pytest.raises(TypeError, match="cannot lie in shared memory"):
        atoll.empty(10, object)


def test_empty_like() -> None:
    prototype = np.asfortranarray(np.ones((300, 200), "i8"))
    array = atoll.empty_like(prototype)
    assert (array.shape, array.dtype, array.flags.f_contiguous) == ((300, 200), np.dtype("i8"), True)
    assert atoll.empty_like(prototype, dtype="f4", shape=(400_000,)).dtype == np.float32

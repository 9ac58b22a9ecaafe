"""The driver's process checkpoint, in the order in which its functions must be called, on a library that is none."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import pytest

from atoll.nodeagent import checkpoints
from atoll.nodeagent.checkpoints import Driver, DriverError, give_up, take_back


class Library:
    """Has the functions of libcuda that are needed, writes down what is called, and fails where it is told to."""

    def __init__(self, failing: str = "", lacking: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        for name in ("Lock", "Checkpoint", "Restore", "Unlock"):
            if name != lacking:
                setattr(self, f"cuCheckpointProcess{name}", self._function(name, 801 if name == failing else 0))

    def _function(self, name: str, status: int) -> Any:
        def call(pid: ctypes.c_int, block: Any) -> int:
            numbers = list(block._obj)
            assert len(numbers) * 4 == 64
            assert not any(numbers[1:])
            self.calls.append((name, pid.value, numbers[0]))
            return status

        return call

    def cuInit(self, flags: int) -> int:
        self.calls.append(("Init", flags))
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = b"operation not supported" if status == 801 else b"?"
        return 0


def test_giving_up_and_taking_back() -> None:
    library = Library()
    give_up(Driver(library), 42)
    take_back(Driver(library), 42)
    assert library.calls == [
        ("Init", 0),
        ("Lock", 42, checkpoints.LOCK_WITHIN_MS),
        ("Checkpoint", 42, 0),
        ("Init", 0),
        ("Restore", 42, 0),
        ("Unlock", 42, 0),
    ]


def test_what_cannot_be_checkpointed_is_unlocked_and_goes_on() -> None:
    library = Library(failing="Checkpoint")
    with pytest.raises(DriverError, match="Checkpoint: operation not supported"):
        give_up(Driver(library), 42)
    assert library.calls[-1] == ("Unlock", 42, 0)


def test_what_cannot_be_locked_is_left_alone() -> None:
    library = Library(failing="Lock")
    with pytest.raises(DriverError, match="Lock: operation not supported"):
        give_up(Driver(library), 42)
    assert [call[0] for call in library.calls] == ["Init", "Lock"]


def test_a_driver_that_is_too_old_says_so() -> None:
    with pytest.raises(DriverError, match="older than 550"):
        Driver(Library(lacking="Restore"))


@pytest.mark.skipif(bool(ctypes.util.find_library("cuda")), reason="there is a driver here")
def test_without_a_driver_it_cannot_be_done_and_the_reason_is_one_line() -> None:
    assert checkpoints.DriverCheckpoints().why_not() == "there is no libcuda.so.1"

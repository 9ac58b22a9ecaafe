"""A process that may open no more files: what needs one fails with a clear line, and nothing else is lost."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import atoll
from atoll.client.session import Session
from atoll.exceptions import ObjectStoreFullError
from tests.patience import PATIENCE_S

LARGE = 20_000_000


@contextlib.contextmanager
def no_more_files(but: int = 0) -> Iterator[None]:
    """Let this process open no file, or so many, as one that has too many open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1, hard)
    )
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _number in range(but):
            os.close(opened.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)


@atoll.remote
def make(value: int) -> np.ndarray:
    return np.full(LARGE, value, np.uint8)


@pytest.mark.parametrize("free", [0, 1])
def test_a_put_without_a_descriptor_is_refused_and_can_be_repeated(session: Session, free: int) -> None:
    """Two descriptors come with new memory, one to write with and one to read with."""
    assert session
    earlier = atoll.put(np.full(LARGE + 50_000_000 * free, 1, np.uint8))
    with no_more_files(but=free), pytest.raises(ObjectStoreFullError, match=r"open files as it may have \(\d+\)"):
        atoll.put(np.full(LARGE, 2, np.uint8))
    assert atoll.get(earlier)[-1] == 1, "the connection to the store is as it was"
    assert atoll.get(atoll.put(np.full(LARGE, 3, np.uint8)))[-1] == 3


def test_a_value_that_cannot_be_mapped_now_can_be_later(session: Session) -> None:
    assert session
    ref = make.remote(5)
    atoll.wait([ref])
    with no_more_files(), pytest.raises(ObjectStoreFullError, match="raise the limit"):
        atoll.get(ref)
    assert atoll.get(ref)[-1] == 5


@atoll.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


def test_a_connection_raises_the_limit_as_far_as_the_system_allows(session: Session) -> None:
    """Without one, a process that is well would be taken for dead."""
    assert session
    counter = Counter.remote()
    with no_more_files():
        assert atoll.get(counter.add.remote(), timeout=PATIENCE_S) == 1

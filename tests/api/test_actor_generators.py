"""Methods that yield, of actors of every kind, on a real cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import atoll
from atoll.exceptions import TaskCancelledError
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


class Source:
    def __init__(self) -> None:
        self.made = 0
        self.closed = 0

    def count(self, limit: int) -> Iterator[int]:
        try:
            for number in range(limit):
                self.made = number + 1
                yield number
        finally:
            self.closed += 1

    def fail(self, after: int) -> Iterator[int]:
        yield from range(after)
        raise LookupError("no more")

    def state(self) -> tuple[int, int]:
        return self.made, self.closed


class Loop(Source):
    async def count_async(self, limit: int) -> AsyncIterator[int]:
        try:
            for number in range(limit):
                self.made = number + 1
                await asyncio.sleep(0)
                yield number
        finally:
            self.closed += 1

    async def fail_async(self, after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
        raise LookupError("no more")

    async def hang(self) -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.sleep(60)
        finally:
            self.closed += 1


KINDS = {
    "plain": (Source, {}, ("count", "fail")),
    "threads": (Source, {"max_concurrency": 3}, ("count", "fail")),
    "sync on a loop": (Loop, {}, ("count", "fail")),
    "async": (Loop, {}, ("count_async", "fail_async")),
}


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    kind, options, (count, fail) = KINDS[request.param]
    actor = atoll.remote(kind).options(**options).remote()
    return actor, getattr(actor, count), getattr(actor, fail)


def test_values_come_one_by_one_and_in_order(source: tuple[Any, Any, Any]) -> None:
    actor, count, fail = source
    assert [atoll.get(ref) for ref in count.remote(40)] == list(range(40))
    values = list(fail.remote(3))
    assert atoll.get(values[:-1]) == [0, 1, 2]
    with pytest.raises(LookupError, match="no more"):
        atoll.get(values[-1])
    assert atoll.get(actor.state.remote()) == (40, 1)


def test_a_generator_waits_for_its_reader_and_is_closed_when_there_is_none(source: tuple[Any, Any, Any]) -> None:
    actor, count, _fail = source
    stream = count.options(_generator_backpressure_num_objects=2).remote(1000)
    assert atoll.get(next(stream)) == 0
    del stream
    until = time.monotonic() + PATIENCE_S
    while atoll.get(actor.state.remote())[1] == 0:
        assert time.monotonic() < until, "it is never closed"
    assert atoll.get(actor.state.remote())[0] < 10


def test_other_calls_run_while_a_coroutine_s_generator_waits_and_it_is_cancelled_as_asyncio_does() -> None:
    actor = atoll.remote(Loop).remote()
    stream = actor.hang.remote()
    assert atoll.get(next(stream)) == 0
    assert atoll.get(actor.state.remote(), timeout=PATIENCE_S) == (0, 0)
    atoll.cancel(stream)
    with pytest.raises(TaskCancelledError):
        atoll.get(next(stream), timeout=PATIENCE_S)
    assert atoll.get(actor.state.remote()) == (0, 1)


def test_two_streams_of_one_actor_are_read_by_turns() -> None:
    actor = atoll.remote(Loop).remote()
    one, other = actor.count_async.remote(20), actor.count_async.remote(20)
    pairs = [(atoll.get(a), atoll.get(b)) for a, b in zip(one, other, strict=True)]
    assert pairs == [(number, number) for number in range(20)]


def test_a_driver_s_own_coroutines_read_streams() -> None:
    actor = atoll.remote(Loop).remote()

    async def read() -> list[int]:
        return [await ref async for ref in actor.count_async.remote(5)]

    assert asyncio.run(read()) == [0, 1, 2, 3, 4]


def test_a_method_that_does_not_yield_cannot_stream() -> None:
    actor = atoll.remote(Source).remote()
    with pytest.raises(ValueError, match="no yield"):
        actor.state.options(num_returns="streaming")
    first, second = actor.count.options(num_returns=2).remote(2)
    assert atoll.get([first, second]) == [0, 1]

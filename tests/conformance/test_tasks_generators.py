"""Tasks that yield: their values come while they run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def count(engine: Any) -> Any:
    """A generator task."""

    @engine.remote
    def count(n: int) -> Iterator[int]:
        for i in range(n):
            yield i

    return count


def test_a_generator_function_streams(engine: Any, count: Any) -> None:
    stream = count.remote(5)
    assert isinstance(stream, engine.ObjectRefGenerator)
    assert [engine.get(ref) for ref in stream] == [0, 1, 2, 3, 4]


def test_what_is_iterated_over_are_refs(engine: Any, count: Any) -> None:
    for ref in count.remote(2):
        assert isinstance(ref, engine.ObjectRef)


def test_streaming_can_be_said(engine: Any) -> None:
    @engine.remote(num_returns="streaming")
    def two() -> Iterator[int]:
        yield 1
        yield 2

    assert engine.get(list(two.remote())) == [1, 2]


def test_streaming_by_options(engine: Any) -> None:
    @engine.remote
    def two() -> Iterator[int]:
        yield 1
        yield 2

    assert engine.get(list(two.options(num_returns="streaming").remote())) == [1, 2]


def test_a_stream_ends_with_stop_iteration(engine: Any, count: Any) -> None:
    stream = count.remote(1)
    assert engine.get(next(stream)) == 0
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)


def test_an_empty_stream(count: Any) -> None:
    assert list(count.remote(0)) == []


def test_values_come_while_the_task_runs(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote
    def stepwise() -> Iterator[str]:
        yield "first"
        until_there(str(tmp_path / "go"))
        yield "second"

    stream = stepwise.remote()
    assert engine.get(next(stream), timeout=30) == "first"
    (tmp_path / "go").touch()
    assert engine.get(next(stream), timeout=30) == "second"


def test_large_values(engine: Any) -> None:
    @engine.remote
    def arrays() -> Iterator[Any]:
        for i in range(3):
            yield np.full(100_000, i)

    assert [int(engine.get(ref)[-1]) for ref in arrays.remote()] == [0, 1, 2]


def test_values_stay_as_long_as_their_refs(engine: Any, count: Any) -> None:
    stream = count.remote(3)
    refs = list(stream)
    del stream
    assert engine.get(refs) == [0, 1, 2]


def test_an_error_comes_after_what_was_yielded(engine: Any) -> None:
    @engine.remote
    def fail() -> Iterator[int]:
        yield 1
        raise KeyError("after one")

    stream = fail.remote()
    assert engine.get(next(stream)) == 1
    with pytest.raises(KeyError):
        engine.get(next(stream))
    with pytest.raises(StopIteration):
        next(stream)


def test_refs_of_a_stream_are_arguments(engine: Any, count: Any) -> None:
    @engine.remote
    def double(x: int) -> int:
        return 2 * x

    assert engine.get([double.remote(ref) for ref in count.remote(3)]) == [0, 2, 4]


def test_asynchronous_iteration(engine: Any, count: Any) -> None:
    async def collect() -> list[int]:
        return [await ref async for ref in count.remote(4)]

    assert asyncio.run(collect()) == [0, 1, 2, 3]


def test_asynchronous_iteration_of_two_streams_at_once(engine: Any, count: Any) -> None:
    async def collect(n: int) -> list[int]:
        return [await ref async for ref in count.remote(n)]

    async def both() -> list[list[int]]:
        return await asyncio.gather(collect(2), collect(3))

    assert asyncio.run(both()) == [[0, 1], [0, 1, 2]]


def test_wait_takes_streams(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote
    def late() -> Iterator[int]:
        until_there(str(tmp_path / "go"))
        yield 1

    stream = late.remote()
    assert engine.wait([stream], timeout=0.2) == ([], [stream])
    (tmp_path / "go").touch()
    ready, rest = engine.wait([stream], timeout=30)
    assert (ready, rest) == ([stream], [])
    assert engine.get(next(stream)) == 1


def test_completed_is_a_ref_that_is_ready_at_the_end(engine: Any, count: Any) -> None:
    stream = count.remote(3)
    engine.get(stream.completed(), timeout=30)
    assert engine.get(list(stream)) == [0, 1, 2]


def test_backpressure_holds_the_task_back(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote(_generator_backpressure_num_objects=2)
    def produce() -> Iterator[int]:
        for i in range(6):
            (tmp_path / f"made-{i}").touch()
            yield i

    stream = produce.remote()
    until_there(str(tmp_path / "made-1"))
    assert engine.wait([stream.completed()], timeout=0.5)[0] == []
    assert len(list(tmp_path.glob("made-*"))) <= 3
    assert engine.get(list(stream)) == [0, 1, 2, 3, 4, 5]


def test_a_generator_of_a_task_within_a_task(engine: Any, count: Any) -> None:
    @engine.remote
    def total() -> int:
        return sum(engine.get(ref) for ref in count.remote(4))

    assert engine.get(total.remote()) == 6


def test_a_stream_of_refs(engine: Any) -> None:
    @engine.remote
    def refs() -> Iterator[Any]:
        for i in range(2):
            yield engine.put(i)

    assert [engine.get(engine.get(ref)) for ref in refs.remote()] == [0, 1]


def test_a_stream_is_retried_when_its_worker_dies(engine: Any, tmp_path: Any) -> None:
    @engine.remote(max_retries=2)
    def die_once() -> Iterator[int]:
        yield 0
        yield 1
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        yield 2

    assert engine.get(list(die_once.remote())) == [0, 1, 2]


def test_a_stream_without_retries_ends_with_the_crash(engine: Any) -> None:
    @engine.remote(max_retries=0)
    def die() -> Iterator[int]:
        yield 0
        import time

        time.sleep(0.5)
        os._exit(1)

    stream = die.remote()
    assert engine.get(next(stream)) == 0
    with pytest.raises(engine.exceptions.WorkerCrashedError):
        engine.get(next(stream))


def test_cancelling_a_stream(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote
    def endless() -> Iterator[int]:
        import time

        yield 0
        while True:
            time.sleep(0.01)

    stream = endless.remote()
    assert engine.get(next(stream)) == 0
    engine.cancel(stream)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(next(stream), timeout=30)


def test_a_stream_cannot_be_passed_on(engine: Any, count: Any) -> None:
    @engine.remote
    def take(stream: Any) -> None:
        return None

    with pytest.raises(Exception, match=r"(?i)generator"):
        take.remote(count.remote(1))


def test_an_actors_generator_method_streams(engine: Any) -> None:
    @engine.remote
    class Counter:
        def count(self, n: int) -> Iterator[int]:
            for i in range(n):
                yield i

    counter = Counter.remote()
    stream = counter.count.options(num_returns="streaming").remote(3)
    assert engine.get(list(stream)) == [0, 1, 2]
    assert engine.get(list(counter.count.remote(2))) == [0, 1]


def test_an_actors_asynchronous_generator_method_streams(engine: Any) -> None:
    @engine.remote
    class Counter:
        async def count(self, n: int) -> AsyncIterator[int]:
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    counter = Counter.remote()
    assert engine.get(list(counter.count.remote(3))) == [0, 1, 2]


def test_two_streams_of_an_asyncio_actor_interleave(engine: Any) -> None:
    @engine.remote
    class Meeting:
        def __init__(self) -> None:
            self.here = 0
            self.both = asyncio.Event()

        async def come(self, name: str) -> AsyncIterator[str]:
            yield f"{name} waits"
            self.here += 1
            if self.here == 2:
                self.both.set()
            await self.both.wait()
            yield f"{name} met"

    meeting = Meeting.remote()
    first, second = meeting.come.remote("a"), meeting.come.remote("b")
    assert engine.get([next(first), next(second)], timeout=30) == ["a waits", "b waits"]
    assert engine.get([next(first), next(second)], timeout=30) == ["a met", "b met"]


def test_a_methods_stream_can_be_declared(engine: Any) -> None:
    @engine.remote
    class Counter:
        @engine.method(num_returns="streaming")
        def count(self, n: int) -> Iterator[int]:
            for i in range(n):
                yield i

    assert engine.get(list(Counter.remote().count.remote(3))) == [0, 1, 2]


def test_only_generator_functions_stream(engine: Any) -> None:
    def plain() -> int:
        return 7

    with pytest.raises(ValueError, match="generator"):
        engine.remote(num_returns="streaming")(plain)


def test_an_unread_stream_may_go(engine: Any, count: Any, tmp_path: Any, until_there: Any) -> None:
    @engine.remote
    def work(directory: str) -> Iterator[int]:
        for i in range(20):
            yield i
        Path(directory, "ended").touch()

    stream = work.remote(str(tmp_path))
    next(stream)
    del stream
    until_there(str(tmp_path / "ended"))
    assert engine.get(list(count.remote(2))) == [0, 1]

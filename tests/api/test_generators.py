"""Generators that stream: values while the task goes on, errors in the midst, a bound on what waits, dropping."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atoll
from atoll.client.session import Session
from atoll.exceptions import (
    GetTimeoutError,
    SerializationError,
    StreamingGeneratorReplayInconsistentError,
    TaskCancelledError,
    WorkerCrashedError,
)
from atoll.ids import TaskId, return_id
from atoll.protocol.messages import GetObject, ObjectFound, ReleaseObjects
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A directory in which generators leave files."""
    return tmp_path


def _stored(session: Session, task_id: bytes, count: int = 10) -> int:
    """Return how many of a generator's first values the store has."""
    found = 0
    for index in range(count):
        object_id = return_id(TaskId(task_id), index + 1)
        answer = session.ask_agent(GetObject(session.next_request(), object_id))
        if isinstance(answer, ObjectFound):
            session.tell_agent(ReleaseObjects([object_id]))
            found += 1
    return found


@atoll.remote
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@atoll.remote
def steps(notes: Path, count: int, failing: int = -1) -> Iterator[int]:
    """Leave a file before each value, and another one when it is closed."""
    try:
        for number in range(count):
            (notes / str(number)).touch()
            if number == failing:
                raise ArithmeticError(f"at {number}")
            yield number
    finally:
        (notes / "closed").touch()


@atoll.remote
def follows(notes: Path) -> Iterator[int]:
    """Yield a value, and go on only when there is a file for the next."""
    for number in range(5):
        yield number
        while not (notes / f"go{number}").exists():
            time.sleep(0.002)


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_generator_function_streams_without_being_asked_to() -> None:
    generator = numbers.remote(5)
    assert isinstance(generator, atoll.ObjectRefGenerator)
    assert [atoll.get(ref) for ref in generator] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(generator)
    assert generator.is_finished()
    assert atoll.get(generator.completed()) is None


def test_an_empty_generator_ends_at_once() -> None:
    assert list(numbers.options(num_returns="streaming").remote(0)) == []


def test_values_come_while_the_generator_goes_on(notes: Path) -> None:
    generator = follows.remote(notes)
    for number in range(5):
        assert atoll.get(next(generator), timeout=PATIENCE_S) == number
        assert not generator.next_ready()
        (notes / f"go{number}").touch()
    with pytest.raises(StopIteration):
        next(generator)


def test_refs_outlive_the_generator_that_they_came_from() -> None:
    refs = list(numbers.remote(3))
    assert atoll.get(refs) == [0, 1, 2]


def test_many_values_keep_their_order() -> None:
    assert atoll.get(list(numbers.remote(3000))) == list(range(3000))


@atoll.remote
def arrays(count: int) -> Iterator[np.ndarray[Any, Any]]:
    for number in range(count):
        yield np.full(50_000, number)


def test_large_values_go_through_the_store_and_are_freed(session: Session) -> None:
    generator = arrays.remote(4)
    first = next(generator)
    assert atoll.get(first)[7] == 0
    task_id = generator.task_id()
    eventually(lambda: _stored(session, task_id) == 4)
    rest = list(generator)
    assert [int(atoll.get(ref)[7]) for ref in rest] == [1, 2, 3]
    del rest
    eventually(lambda: _stored(session, task_id) == 1)
    del first
    eventually(lambda: _stored(session, task_id) == 0)


@atoll.remote
def refs_inside(count: int) -> Iterator[list[Any]]:
    for number in range(count):
        yield [atoll.put(number)]


def test_refs_in_values_keep_their_objects() -> None:
    inner = [atoll.get(ref)[0] for ref in refs_inside.remote(3)]
    assert atoll.get(inner) == [0, 1, 2]


def test_a_task_can_take_a_value_that_has_come() -> None:
    @atoll.remote
    def double(number: int) -> int:
        return 2 * number

    assert atoll.get([double.remote(ref) for ref in numbers.remote(4)]) == [0, 2, 4, 6]


def test_a_task_can_read_a_generator_of_its_own() -> None:
    @atoll.remote
    def total(count: int) -> int:
        return sum(atoll.get(ref) for ref in numbers.remote(count))

    assert atoll.get(total.remote(10)) == 45


# ---------------------------------------------------------------------------------------------------------- asyncio


def test_a_generator_can_be_read_asynchronously() -> None:
    async def collect(count: int) -> list[int]:
        return [await ref async for ref in numbers.remote(count)]

    async def several() -> list[list[int]]:
        return await asyncio.gather(collect(3), collect(5), collect(0))

    assert asyncio.run(several()) == [[0, 1, 2], [0, 1, 2, 3, 4], []]


def test_an_event_loop_is_not_blocked_by_a_value_that_takes_long(notes: Path) -> None:
    async def read() -> list[int]:
        generator = follows.remote(notes)
        found = [await (await generator.__anext__())]
        waiting = asyncio.ensure_future(generator.__anext__())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        (notes / "go0").touch()
        found.append(await (await waiting))
        return found

    assert asyncio.run(read()) == [0, 1]


# ------------------------------------------------------------------------------------------------------------ errors


def test_an_error_comes_behind_the_values_before_it(notes: Path) -> None:
    generator = steps.remote(notes, 5, 2)
    refs = list(generator)
    assert atoll.get(refs[:2]) == [0, 1]
    assert len(refs) == 3
    with pytest.raises(ArithmeticError, match="at 2"):
        atoll.get(refs[2])
    with pytest.raises(ArithmeticError, match="at 2"):
        atoll.get(generator.completed())


def test_a_value_that_does_not_pickle_is_an_error_in_its_place() -> None:
    @atoll.remote
    def odd() -> Iterator[Any]:
        yield 1
        yield (lock for lock in [])  # a generator does not pickle
        yield 3

    first, second = list(odd.remote())
    assert atoll.get(first) == 1
    with pytest.raises(SerializationError):
        atoll.get(second)


def test_a_function_without_yield_cannot_stream() -> None:
    def plain() -> int:
        return 1

    with pytest.raises(ValueError, match="generator functions"):
        atoll.remote(num_returns="streaming")(plain)
    with pytest.raises(ValueError, match="generator functions"):
        atoll.remote(plain).options(num_returns="streaming")


def test_a_generator_cannot_be_passed_on() -> None:
    generator = numbers.remote(1)
    with pytest.raises(TypeError, match="cannot be passed on"):
        numbers.remote(generator)
    with pytest.raises(TypeError, match="cannot be passed on"):
        atoll.put([generator])


def test_it_is_no_plain_generator() -> None:
    generator = numbers.remote(1)
    for call in (lambda: generator.send(1), lambda: generator.throw(ValueError()), generator.close):
        with pytest.raises(NotImplementedError):
            call()


def test_an_exception_that_is_retried_gives_every_value_once(notes: Path) -> None:
    @atoll.remote(retry_exceptions=True)
    def fails_once() -> Iterator[int]:
        yield 0
        yield 1
        if not (notes / "failed").exists():
            (notes / "failed").touch()
            raise ArithmeticError
        yield 2

    assert atoll.get(list(fails_once.remote())) == [0, 1, 2]


def test_a_worker_that_dies_in_the_midst_gives_every_value_once(notes: Path) -> None:
    @atoll.remote
    def dies_once() -> Iterator[Any]:
        for number in range(4):
            if number == 2 and not (notes / "died").exists():
                (notes / "died").touch()
                while not (notes / "read").exists():
                    time.sleep(0.002)
                os.kill(os.getpid(), signal.SIGKILL)
            yield np.full(50_000, number)

    generator = dies_once.remote()
    found = [int(atoll.get(next(generator))[0]) for _ in range(2)]
    (notes / "read").touch()
    assert found + [int(atoll.get(ref)[0]) for ref in generator] == [0, 1, 2, 3]


def test_a_worker_that_dies_without_a_retry_is_an_error_behind_what_came(notes: Path) -> None:
    @atoll.remote(max_retries=0)
    def dies() -> Iterator[int]:
        yield 0
        while not (notes / "read").exists():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGKILL)

    generator = dies.remote()
    assert atoll.get(next(generator)) == 0
    (notes / "read").touch()
    (last,) = list(generator)
    with pytest.raises(WorkerCrashedError):
        atoll.get(last)


def test_a_generator_that_yields_less_when_it_runs_again_is_an_error(notes: Path) -> None:
    @atoll.remote(retry_exceptions=True)
    def shrinks() -> Iterator[int]:
        yield 0
        if (notes / "failed").exists():
            return
        yield 1
        (notes / "failed").touch()
        raise ArithmeticError

    refs = list(shrinks.remote())
    assert atoll.get(refs[:2]) == [0, 1]
    with pytest.raises(StreamingGeneratorReplayInconsistentError, match="2 values when it ran first and 1"):
        atoll.get(refs[2])


# ------------------------------------------------------------------------------------------------------ backpressure


@pytest.mark.parametrize("limit", [1, 3])
def test_a_generator_waits_for_its_reader(notes: Path, limit: int) -> None:
    generator = steps.options(_generator_backpressure_num_objects=limit).remote(notes, 20)
    for taken in range(5):
        eventually((notes / str(taken + limit - 1)).exists)
        assert not (notes / str(taken + limit)).exists()
        assert atoll.get(next(generator)) == taken
    assert atoll.get(list(generator)) == list(range(5, 20))


def test_a_generator_that_waits_for_its_reader_lends_its_cpu(notes: Path) -> None:
    """Both CPUs are taken by generators that wait; what reads them is a task that needs one."""
    waiting = [
        steps.options(_generator_backpressure_num_objects=1).remote(notes, 3),
        steps.options(_generator_backpressure_num_objects=1).remote(notes, 3),
    ]

    @atoll.remote
    def reads() -> int:
        return 7

    atoll.wait(waiting, num_returns=2, timeout=PATIENCE_S)
    assert atoll.get([reads.remote() for _ in range(3)], timeout=PATIENCE_S) == [7, 7, 7]
    assert [atoll.get(list(generator)) for generator in waiting] == [[0, 1, 2]] * 2


def test_a_generator_that_waits_for_its_reader_can_be_cancelled(notes: Path) -> None:
    generator = steps.options(_generator_backpressure_num_objects=1).remote(notes, 20)
    assert atoll.get(next(generator)) == 0
    eventually((notes / "1").exists)
    atoll.cancel(generator)
    refs = list(generator)
    with pytest.raises(TaskCancelledError):
        atoll.get(refs[-1], timeout=PATIENCE_S)
    eventually((notes / "closed").exists)


# ------------------------------------------------------------------------------------------------ dropping, cancelling


def test_dropping_closes_the_generator_and_frees_what_was_not_taken(notes: Path, session: Session) -> None:
    @atoll.remote
    def endless() -> Iterator[Any]:
        try:
            while True:
                yield np.zeros(50_000)
                time.sleep(0.005)
        finally:
            (notes / "closed").touch()

    generator = endless.remote()
    task_id = generator.task_id()
    next(generator)
    del generator
    eventually((notes / "closed").exists)
    eventually(lambda: _stored(session, task_id, 30) == 0)


def test_dropping_a_generator_that_waits_for_its_reader_closes_it(notes: Path) -> None:
    generator = steps.options(_generator_backpressure_num_objects=1).remote(notes, 20)
    next(generator)
    del generator
    eventually((notes / "closed").exists)
    assert not (notes / "3").exists()


def test_dropping_a_generator_that_has_not_begun_lets_it_never_begin(notes: Path) -> None:
    blocker = numbers.remote(1)
    generator = steps.remote(notes, next(blocker))
    del generator
    assert atoll.get(list(numbers.remote(2))) == [0, 1]


def test_cancelling_ends_the_stream_with_an_error(notes: Path) -> None:
    generator = follows.remote(notes)
    assert atoll.get(next(generator)) == 0
    atoll.cancel(generator)
    (last,) = list(generator)
    with pytest.raises(TaskCancelledError):
        atoll.get(last)
    assert generator.is_finished()


# ------------------------------------------------------------------------------------------------------------ waiting


def test_wait_takes_generators(notes: Path) -> None:
    slow, fast = follows.remote(notes), numbers.remote(2)
    assert atoll.get(next(slow)) == 0
    plain = atoll.put(1)
    ready, rest = atoll.wait([slow, fast, plain], num_returns=2, timeout=PATIENCE_S)
    assert ready == [fast, plain]
    assert rest == [slow]
    assert atoll.wait([slow], timeout=0) == ([], [slow])
    list(fast)
    assert atoll.wait([fast], timeout=0) == ([fast], [])
    with pytest.raises(ValueError, match="duplicates"):
        atoll.wait([fast, fast])
    with pytest.raises(GetTimeoutError):
        atoll.get(slow.completed(), timeout=0)


# ------------------------------------------------------------------------------------------------------------ dynamic


def test_dynamic_returns_all_refs_at_once(session: Session) -> None:
    with pytest.warns(DeprecationWarning, match="streaming"):
        dynamic = arrays.options(num_returns="dynamic")
    ref = dynamic.remote(3)
    task_id = ref.task_id()
    generator = atoll.get(ref)
    assert isinstance(generator, atoll.DynamicObjectRefGenerator)
    assert len(generator) == 3
    refs = list(generator)
    assert [int(atoll.get(ref)[0]) for ref in refs] == [0, 1, 2]
    del refs, generator, ref
    eventually(lambda: _stored(session, task_id) == 0)


def test_dynamic_has_an_error_as_its_last(notes: Path) -> None:
    with pytest.warns(DeprecationWarning, match="streaming"):
        dynamic = steps.options(num_returns="dynamic")
    refs = list(atoll.get(dynamic.remote(notes, 4, 2)))
    assert atoll.get(refs[:2]) == [0, 1]
    with pytest.raises(ArithmeticError, match="at 2"):
        atoll.get(refs[2])


def test_a_generator_with_a_number_of_returns_gives_so_many() -> None:
    assert atoll.get(numbers.options(num_returns=3).remote(3)) == [0, 1, 2]

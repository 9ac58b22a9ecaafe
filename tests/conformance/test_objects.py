"""Objects: put, get, wait, awaiting, and how long they live."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def late(engine: Any, until_there: Any, tmp_path: Path) -> Any:
    """A task that ends when `go` is there, and its way to go."""

    @engine.remote
    def late(value: Any) -> Any:
        until_there(str(tmp_path / "go"))
        return value

    yield late
    (tmp_path / "go").touch()


@pytest.mark.parametrize("value", [None, 1, "text", [1, 2], {"a": (1,)}, b"bytes", 1 + 2j], ids=str)
def test_put_and_get(engine: Any, value: Any) -> None:
    assert engine.get(engine.put(value)) == value


def test_put_of_arrays(engine: Any) -> None:
    values = np.arange(300_000).reshape(300, 1000)
    back = engine.get(engine.put(values))
    assert back.shape == (300, 1000)
    assert np.array_equal(back, values)


def test_what_was_put_does_not_change(engine: Any) -> None:
    values = [1, 2]
    ref = engine.put(values)
    values.append(3)
    assert engine.get(ref) == [1, 2]


def test_two_gets_give_two_objects(engine: Any) -> None:
    ref = engine.put([1])
    first = engine.get(ref)
    first.append(2)
    assert engine.get(ref) == [1]


def test_large_arrays_are_read_only(engine: Any) -> None:
    back = engine.get(engine.put(np.ones(300_000)))
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 2


def test_large_arrays_are_not_copied(engine: Any) -> None:
    ref = engine.put(np.ones(300_000))
    first, second = engine.get(ref), engine.get(ref)
    assert first.__array_interface__["data"][0] == second.__array_interface__["data"][0]


def test_a_ref_is_not_put(engine: Any) -> None:
    with pytest.raises(TypeError):
        engine.put(engine.put(1))


def test_refs_in_containers_that_are_put(engine: Any) -> None:
    inner = engine.put("inside")
    outer = engine.put({"a": [inner]})
    del inner
    assert engine.get(engine.get(outer)["a"][0]) == "inside"


def test_deeply_nested_refs(engine: Any) -> None:
    ref = engine.put("core")
    for _ in range(10):
        ref = engine.put([ref])
    for _ in range(10):
        (ref,) = engine.get(ref)
    assert engine.get(ref) == "core"


def test_get_of_an_empty_list(engine: Any) -> None:
    assert engine.get([]) == []


def test_get_of_a_list_with_one_ref_twice(engine: Any) -> None:
    ref = engine.put(1)
    assert engine.get([ref, ref]) == [1, 1]


@pytest.mark.parametrize("wrong", [7, "text", [7], None, {"a": 1}], ids=str)
def test_get_of_what_is_no_ref(engine: Any, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        engine.get(wrong)


def test_get_with_a_timeout(engine: Any, late: Any) -> None:
    ref = late.remote(1)
    began = time.monotonic()
    with pytest.raises(engine.exceptions.GetTimeoutError):
        engine.get(ref, timeout=0.1)
    assert 0.05 < time.monotonic() - began < 10


def test_get_timeout_error_is_a_timeout_error(engine: Any, late: Any) -> None:
    ref = late.remote(1)
    with pytest.raises(TimeoutError):
        engine.get([ref], timeout=0.05)


def test_get_with_a_timeout_of_zero(engine: Any, late: Any) -> None:
    assert engine.get(engine.put(1), timeout=0) == 1
    ref = late.remote(1)
    with pytest.raises(engine.exceptions.GetTimeoutError):
        engine.get(ref, timeout=0)


def test_a_value_that_comes_after_a_timeout(engine: Any, late: Any, tmp_path: Path) -> None:
    ref = late.remote("came")
    with pytest.raises(engine.exceptions.GetTimeoutError):
        engine.get(ref, timeout=0.05)
    (tmp_path / "go").touch()
    assert engine.get(ref, timeout=30) == "came"


def test_wait_for_one(engine: Any, late: Any) -> None:
    slow, quick = late.remote(1), engine.put(2)
    assert engine.wait([slow, quick]) == ([quick], [slow])


def test_wait_for_several(engine: Any, late: Any) -> None:
    slow = late.remote(1)
    quick = [engine.put(i) for i in range(3)]
    ready, rest = engine.wait([slow, *quick], num_returns=3)
    assert set(ready) == set(quick)
    assert rest == [slow]


def test_wait_returns_no_more_than_asked_for(engine: Any) -> None:
    refs = [engine.put(i) for i in range(5)]
    ready, rest = engine.wait(refs, num_returns=2)
    assert len(ready) == 2
    assert len(rest) == 3
    assert set(ready) | set(rest) == set(refs)


def test_wait_keeps_the_order(engine: Any) -> None:
    refs = [engine.put(i) for i in range(10)]
    ready, rest = engine.wait(refs, num_returns=4)
    assert ready == [ref for ref in refs if ref in ready]
    assert rest == [ref for ref in refs if ref in rest]


def test_wait_with_a_timeout(engine: Any, late: Any) -> None:
    slow = late.remote(1)
    quick = engine.put(1)
    assert engine.wait([slow, quick], num_returns=2, timeout=0.1) == ([quick], [slow])


def test_wait_with_a_timeout_of_zero(engine: Any, late: Any) -> None:
    slow = late.remote(1)
    assert engine.wait([slow], timeout=0) == ([], [slow])


def test_wait_for_nothing(engine: Any) -> None:
    assert engine.wait([]) == ([], [])


def test_wait_with_duplicates(engine: Any) -> None:
    ref = engine.put(1)
    with pytest.raises(ValueError):  # noqa: PT011 - engines say it in words of their own
        engine.wait([ref, ref])


@pytest.mark.parametrize("num_returns", [0, -1, 3])
def test_wait_for_a_number_that_makes_no_sense(engine: Any, num_returns: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - engines say it in words of their own
        engine.wait([engine.put(1), engine.put(2)], num_returns=num_returns)


@pytest.mark.parametrize("wrong", ["ref", "number", "list of a number"])
def test_wait_takes_lists_of_refs(engine: Any, wrong: str) -> None:
    refs = {"ref": engine.put(1), "number": 7, "list of a number": [7]}[wrong]
    with pytest.raises(TypeError):
        engine.wait(refs)


def test_wait_with_a_negative_timeout(engine: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - engines say it in words of their own
        engine.wait([engine.put(1)], timeout=-1)


def test_what_has_failed_is_ready(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise ValueError("failed")

    ref = fail.remote()
    assert engine.wait([ref], timeout=30) == ([ref], [])


def test_wait_without_fetching(engine: Any) -> None:
    refs = [engine.put(np.ones(100_000)) for _ in range(3)]
    assert len(engine.wait(refs, num_returns=3, fetch_local=False)[0]) == 3


def test_wait_in_a_loop_until_all_are_there(engine: Any) -> None:
    @engine.remote
    def give(i: int) -> int:
        return i

    rest = [give.remote(i) for i in range(20)]
    seen = []
    while rest:
        ready, rest = engine.wait(rest)
        seen += engine.get(ready)
    assert sorted(seen) == list(range(20))


def test_refs_are_equal_and_hashable(engine: Any) -> None:
    ref = engine.put(1)

    @engine.remote
    def same(box: list[Any]) -> Any:
        return box

    (back,) = engine.get(same.remote([ref]))
    assert back == ref
    assert hash(back) == hash(ref)
    assert len({ref, back}) == 1
    assert ref != engine.put(1)


def test_refs_show_their_ids(engine: Any) -> None:
    ref = engine.put(1)
    assert ref.hex() == ref.binary().hex()
    assert ref.hex() in repr(ref)


def test_await(engine: Any) -> None:
    async def work() -> Any:
        return await engine.put(5)

    assert asyncio.run(work()) == 5


def test_await_of_a_running_task(engine: Any, late: Any, tmp_path: Path) -> None:
    async def work() -> Any:
        ref = late.remote("later")
        waiting = asyncio.ensure_future(asyncio.wait_for(asyncio.wrap_future(ref.future()), 30))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        (tmp_path / "go").touch()
        return await waiting

    assert asyncio.run(work()) == "later"


def test_gather(engine: Any) -> None:
    @engine.remote
    def double(x: int) -> int:
        return 2 * x

    async def work() -> list[int]:
        return list(await asyncio.gather(*[double.remote(i) for i in range(5)]))

    assert asyncio.run(work()) == [0, 2, 4, 6, 8]


def test_await_of_an_error(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise KeyError("awaited")

    async def work() -> Any:
        return await fail.remote()

    with pytest.raises(KeyError):
        asyncio.run(work())


def test_asyncio_wait_for_times_out(engine: Any, late: Any) -> None:
    async def work() -> Any:
        return await asyncio.wait_for(late.remote(1), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(work())


def test_asyncio_wait(engine: Any, late: Any) -> None:
    async def work() -> tuple[int, int]:
        waiting = [asyncio.ensure_future(_awaited(ref)) for ref in (late.remote(1), engine.put(2))]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
        return len(done), len(pending)

    async def _awaited(ref: Any) -> Any:
        return await ref

    assert asyncio.run(work()) == (1, 1)


def test_futures(engine: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    future = one.remote().future()
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=30) == 1


def test_a_future_of_an_error(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise KeyError("future")

    assert isinstance(fail.remote().future().exception(timeout=30), KeyError)


def test_futures_as_completed(engine: Any) -> None:
    @engine.remote
    def give(i: int) -> int:
        return i

    futures = [give.remote(i).future() for i in range(5)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, timeout=30)) == [0, 1, 2, 3, 4]


def test_gets_of_many_threads(engine: Any) -> None:
    @engine.remote
    def give(i: int) -> int:
        return i

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda i: engine.get(give.remote(i)), range(60))) == list(range(60))


def test_a_ref_that_a_thread_made(engine: Any) -> None:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(engine.put("threaded")))
    thread.start()
    thread.join()
    assert engine.get(made[0]) == "threaded"


def test_what_does_not_pickle_is_not_put(engine: Any) -> None:
    with pytest.raises(TypeError):
        engine.put(threading.Lock())


def test_what_does_not_pickle_is_no_argument(engine: Any) -> None:
    @engine.remote
    def take(_value: Any) -> None:
        return None

    with pytest.raises(TypeError):
        take.remote(threading.Lock())


def test_what_does_not_pickle_is_no_result(engine: Any) -> None:
    @engine.remote
    def give() -> Any:
        return threading.Lock()

    with pytest.raises(TypeError):
        engine.get(give.remote())


def test_a_function_that_captures_what_does_not_pickle(engine: Any) -> None:
    lock = threading.Lock()

    @engine.remote
    def use() -> Any:
        return lock

    with pytest.raises(TypeError):
        use.remote()


def test_objects_with_their_own_way_to_pickle(engine: Any) -> None:
    class Own:
        def __init__(self, x: int) -> None:
            self.x = x
            self.lock = threading.Lock()

        def __reduce__(self) -> Any:
            return Own, (self.x + 1,)

    assert engine.get(engine.put(Own(1))).x == 2


def test_a_ref_that_a_dead_worker_has_put_has_lost_its_owner(engine: Any) -> None:
    @engine.remote
    class Maker:
        def make(self) -> list[Any]:
            return [engine.put(np.ones(300_000))]

    maker = Maker.remote()
    (ref,) = engine.get(maker.make.remote())
    engine.kill(maker)

    def lost() -> bool:
        try:
            engine.get(ref, timeout=5)
        except engine.exceptions.OwnerDiedError:
            return True
        except engine.exceptions.GetTimeoutError:
            return False
        return False

    until = time.monotonic() + 30
    while not lost():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_worker_that_dies_leaves_what_it_computed(engine: Any) -> None:
    @engine.remote
    class Maker:
        def make(self) -> Any:
            return np.ones(300_000)

    maker = Maker.remote()
    ref = maker.make.remote()
    engine.wait([ref])
    engine.kill(maker)
    assert engine.get(ref, timeout=30).sum() == 300_000


def test_a_large_result_outlives_its_worker(engine: Any) -> None:
    @engine.remote(max_calls=1)
    def make() -> Any:
        return os.getpid(), np.ones(300_000)

    ref = make.remote()
    pid, values = engine.get(ref, timeout=30)
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert values.sum() == engine.get(ref)[1].sum() == 300_000


def test_values_outlive_their_refs(engine: Any) -> None:
    ref = engine.put(np.arange(300_000))
    values = engine.get(ref)
    del ref
    for _ in range(5):
        engine.put(np.zeros(300_000))
    assert values[-1] == 299_999


def test_the_store_is_used_again(engine: Any) -> None:
    for i in range(30):  # more than the store holds
        assert engine.get(engine.put(np.full(2_000_000, i)))[0] == i


def test_results_that_nobody_wants_are_freed(engine: Any) -> None:
    @engine.remote
    def make(i: int) -> Any:
        return np.full(2_000_000, i)

    for i in range(30):  # more than the store holds
        assert engine.get(make.remote(i), timeout=30)[0] == i


def test_an_argument_lives_until_its_task_has_ended(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def use(values: Any, path: str) -> float:
        until_there(path)
        return float(values.sum())

    ref = use.remote(engine.put(np.ones(300_000)), str(tmp_path / "go"))
    for _ in range(3):
        engine.put(np.zeros(300_000))
    (tmp_path / "go").touch()
    assert engine.get(ref, timeout=30) == 300_000


def test_a_ref_that_an_actor_keeps_lives(engine: Any) -> None:
    @engine.remote
    class Keeper:
        def keep(self, box: list[Any]) -> None:
            self.box = box

        def read(self) -> float:
            return float(engine.get(self.box[0]).sum())

    keeper = Keeper.remote()
    ref = engine.put(np.ones(300_000))
    engine.get(keeper.keep.remote([ref]))
    del ref
    time.sleep(0.3)
    assert engine.get(keeper.read.remote(), timeout=30) == 300_000


def test_a_ref_passed_through_several_processes_lives(engine: Any) -> None:
    @engine.remote
    def through(box: list[Any], depth: int) -> Any:
        return box if depth == 0 else engine.get(through.remote(box, depth - 1))

    ref = engine.put(np.ones(300_000))
    (back,) = engine.get(through.remote([ref], 3), timeout=50)
    del ref
    time.sleep(0.2)
    assert engine.get(back).sum() == 300_000


def test_refs_in_other_objects(engine: Any) -> None:
    class Node:
        def __init__(self, value: Any, rest: Any) -> None:
            self.value = value
            self.rest = rest

    rest = None
    for i in range(3):
        rest = engine.put(Node(i, rest))
    seen = []
    while rest is not None:
        node = engine.get(rest)
        seen.append(node.value)
        rest = node.rest
    assert seen == [2, 1, 0]


def test_object_refs_name_their_class(engine: Any) -> None:
    assert isinstance(engine.put(1), engine.ObjectRef)


def test_on_completed(engine: Any) -> None:
    called = threading.Event()
    seen: list[Any] = []

    def done(value: Any) -> None:
        seen.append(value)
        called.set()

    @engine.remote
    def one() -> int:
        return 1

    one.remote().future().add_done_callback(lambda future: done(future.result()))
    assert called.wait(30)
    assert seen == [1]

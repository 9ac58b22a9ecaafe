"""Utilities: pools of actors, queues, multiprocessing's Pool, joblib, results as they come."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest


def square(x: int) -> int:
    return x * x


@pytest.fixture
def doubler(engine: Any) -> Any:
    """An actor class with one method."""

    @engine.remote
    class Doubler:
        def double(self, x: int) -> int:
            return 2 * x

        def slowly(self, x: float) -> float:
            time.sleep(x)
            return x

        def fail(self, x: int) -> int:
            raise ValueError(x)

    return Doubler


@pytest.fixture
def pool(engine: Any, doubler: Any, part: Any) -> Any:
    """A pool of two actors."""
    return part("util").ActorPool([doubler.remote(), doubler.remote()])


def test_actor_pool_map(pool: Any) -> None:
    assert list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3, 4])) == [2, 4, 6, 8]


def test_actor_pool_map_keeps_the_order(pool: Any) -> None:
    assert list(pool.map(lambda actor, x: actor.slowly.remote(x), [0.2, 0.0, 0.0])) == [0.2, 0.0, 0.0]


def test_actor_pool_map_unordered(pool: Any) -> None:
    assert sorted(pool.map_unordered(lambda actor, x: actor.double.remote(x), range(6))) == [0, 2, 4, 6, 8, 10]


def test_actor_pool_map_of_nothing(pool: Any) -> None:
    assert list(pool.map(lambda actor, x: actor.double.remote(x), [])) == []


def test_actor_pool_submit_and_get_next(pool: Any) -> None:
    for i in range(4):
        pool.submit(lambda actor, x: actor.double.remote(x), i)
    assert pool.has_next()
    assert [pool.get_next() for _ in range(4)] == [0, 2, 4, 6]
    assert not pool.has_next()


def test_actor_pool_get_next_of_nothing(pool: Any) -> None:
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_actor_pool_get_next_unordered(pool: Any) -> None:
    pool.submit(lambda actor, x: actor.slowly.remote(x), 0.5)
    pool.submit(lambda actor, x: actor.slowly.remote(x), 0.0)
    assert [pool.get_next_unordered(), pool.get_next_unordered()] == [0.0, 0.5]


def test_actor_pool_get_next_with_a_timeout(pool: Any) -> None:
    pool.submit(lambda actor, x: actor.slowly.remote(x), 2)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.1)


def test_actor_pool_push_and_pop_idle(engine: Any, doubler: Any, pool: Any) -> None:
    first, second = pool.pop_idle(), pool.pop_idle()
    assert first is not None
    assert second is not None
    assert pool.pop_idle() is None
    assert not pool.has_free()
    pool.push(first)
    assert pool.has_free()
    pool.submit(lambda actor, x: actor.double.remote(x), 3)
    assert pool.get_next() == 6


def test_actor_pool_push_of_what_is_there(pool: Any) -> None:
    actor = pool.pop_idle()
    pool.push(actor)
    with pytest.raises(ValueError):  # noqa: PT011 - engines say it in words of their own
        pool.push(actor)


def test_actor_pool_with_more_work_than_actors(pool: Any) -> None:
    assert list(pool.map(lambda actor, x: actor.double.remote(x), range(20))) == [2 * i for i in range(20)]


def test_actor_pool_errors(pool: Any) -> None:
    pool.submit(lambda actor, x: actor.fail.remote(x), 3)
    with pytest.raises(ValueError, match="3"):
        pool.get_next()


@pytest.fixture
def queue(part: Any) -> Any:
    """The module of queues."""
    return part("util.queue")


def test_queue_put_and_get(queue: Any) -> None:
    q = queue.Queue()
    for i in range(3):
        q.put(i)
    assert [q.get() for _ in range(3)] == [0, 1, 2]
    q.shutdown()


def test_queue_sizes(queue: Any) -> None:
    q = queue.Queue(maxsize=2)
    assert (q.qsize(), q.empty(), q.full(), len(q)) == (0, True, False, 0)
    q.put(1)
    q.put(2)
    assert (q.qsize(), q.size(), q.empty(), q.full()) == (2, 2, False, True)
    q.shutdown()


def test_queue_without_waiting(queue: Any) -> None:
    q = queue.Queue(maxsize=1)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    q.put_nowait(1)
    with pytest.raises(queue.Full):
        q.put_nowait(2)
    assert q.get_nowait() == 1
    q.shutdown()


def test_queue_errors_are_the_standard_librarys(queue: Any) -> None:
    import queue as standard

    assert issubclass(queue.Empty, standard.Empty)
    assert issubclass(queue.Full, standard.Full)


def test_queue_with_a_timeout(queue: Any) -> None:
    q = queue.Queue(maxsize=1)
    with pytest.raises(queue.Empty):
        q.get(timeout=0.1)
    q.put(1)
    with pytest.raises(queue.Full):
        q.put(2, timeout=0.1)
    q.shutdown()


@pytest.mark.parametrize("method", ["get", "put"])
def test_queue_with_a_timeout_that_makes_no_sense(queue: Any, method: str) -> None:
    q = queue.Queue()
    with pytest.raises(ValueError, match="timeout"):
        q.get(timeout=-1) if method == "get" else q.put(1, timeout=-1)
    q.shutdown()


def test_queue_in_batches(queue: Any) -> None:
    q = queue.Queue(maxsize=4)
    q.put_nowait_batch([1, 2, 3])
    with pytest.raises(queue.Full):
        q.put_nowait_batch([4, 5])
    assert q.get_nowait_batch(2) == [1, 2]
    with pytest.raises(queue.Empty):
        q.get_nowait_batch(2)
    q.shutdown()


def test_queue_between_tasks(engine: Any, queue: Any) -> None:
    @engine.remote
    def produce(q: Any, n: int) -> None:
        for i in range(n):
            q.put(i)

    @engine.remote
    def consume(q: Any, n: int) -> list[int]:
        return [q.get(timeout=20) for _ in range(n)]

    q = queue.Queue(maxsize=2)
    taken = consume.remote(q, 8)
    produce.remote(q, 8)
    assert engine.get(taken, timeout=30) == list(range(8))
    q.shutdown()


def test_queue_wakes_who_waits(engine: Any, queue: Any) -> None:
    @engine.remote
    def take(q: Any) -> Any:
        return q.get(timeout=30)

    q = queue.Queue()
    ref = take.remote(q)
    assert engine.wait([ref], timeout=0.2)[0] == []
    q.put("woken")
    assert engine.get(ref, timeout=30) == "woken"
    q.shutdown()


async def _use_asynchronously(q: Any) -> list[Any]:
    await q.put_async(1)
    await q.put_async(2)
    return [await q.get_async(), await q.get_async()]


def test_queue_asynchronously(queue: Any) -> None:
    import asyncio

    q = queue.Queue()
    assert asyncio.run(_use_asynchronously(q)) == [1, 2]
    q.shutdown()


def test_queue_of_a_named_actor(engine: Any, queue: Any, unique: str) -> None:
    q = queue.Queue(actor_options={"name": unique})
    q.put(1)
    assert engine.get_actor(unique) is not None
    q.shutdown()


def test_a_shut_down_queue(engine: Any, queue: Any) -> None:
    q = queue.Queue()
    q.put(1)
    q.shutdown(force=True)
    assert q.actor is None


@pytest.fixture
def multiprocessing(part: Any) -> Any:
    """The module of multiprocessing's Pool."""
    return part("util.multiprocessing")


def test_pool_map(multiprocessing: Any) -> None:
    with multiprocessing.Pool(2) as pool:
        assert pool.map(square, range(10)) == [i * i for i in range(10)]


def test_pool_methods(multiprocessing: Any) -> None:
    with multiprocessing.Pool(2) as pool:
        assert pool.apply(pow, (2, 5)) == 32
        assert pool.apply(int, ("ff",), {"base": 16}) == 255
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
        assert list(pool.imap(square, range(5))) == [0, 1, 4, 9, 16]
        assert sorted(pool.imap_unordered(square, range(5))) == [0, 1, 4, 9, 16]
        assert pool.map(math.sqrt, [4, 9], chunksize=1) == [2, 3]


def test_pool_asynchronously(multiprocessing: Any) -> None:
    with multiprocessing.Pool(2) as pool:
        result = pool.apply_async(square, (7,))
        assert result.get(timeout=30) == 49
        assert result.ready()
        assert result.successful()
        many = pool.map_async(square, range(4))
        many.wait(30)
        assert many.get() == [0, 1, 4, 9]
        assert pool.starmap_async(pow, [(2, 2)]).get(timeout=30) == [4]


def test_pool_callbacks(multiprocessing: Any, eventually: Any) -> None:
    seen: list[Any] = []

    def fail() -> None:
        raise ValueError("for the callback")

    with multiprocessing.Pool(2) as pool:
        pool.apply_async(square, (3,), callback=seen.append).get(timeout=30)
        eventually(lambda: seen == [9])
        result = pool.apply_async(fail, error_callback=lambda error: seen.append(str(error)))
        result.wait(30)
        eventually(lambda: len(seen) == 2)
        assert "for the callback" in seen[1]


def test_pool_errors(multiprocessing: Any) -> None:
    def fail(x: int) -> int:
        raise KeyError(x)

    with multiprocessing.Pool(2) as pool:
        with pytest.raises(KeyError):
            pool.map(fail, [1, 2])
        with pytest.raises(KeyError):
            pool.apply(fail, (1,))
        result = pool.apply_async(fail, (1,))
        result.wait(30)
        assert not result.successful()


def test_pool_timeouts(multiprocessing: Any) -> None:
    with multiprocessing.Pool(1) as pool:
        result = pool.apply_async(time.sleep, (1.0,))
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout=0.05)


def test_pool_initializer(multiprocessing: Any) -> None:
    def set_up(value: str) -> None:
        os.environ["CONFORMANCE_POOL"] = value

    with multiprocessing.Pool(2, initializer=set_up, initargs=("ready",)) as pool:
        assert pool.map(lambda _: os.environ["CONFORMANCE_POOL"], range(4)) == ["ready"] * 4


def test_pool_processes(multiprocessing: Any) -> None:
    def pid(_: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    with multiprocessing.Pool(2) as pool:
        pids = set(pool.map(pid, range(8), chunksize=1))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_pool_closed(multiprocessing: Any) -> None:
    pool = multiprocessing.Pool(1)
    assert pool.map(square, [2]) == [4]
    pool.close()
    with pytest.raises(ValueError):  # noqa: PT011 - multiprocessing's own words differ by version
        pool.map(square, [2])
    pool.join()


def test_pool_join_wants_close_first(multiprocessing: Any) -> None:
    pool = multiprocessing.Pool(1)
    with pytest.raises(ValueError):  # noqa: PT011 - multiprocessing's own words differ by version
        pool.join()
    pool.terminate()
    pool.join()


def test_pool_of_closures(multiprocessing: Any) -> None:
    factor = 3
    with multiprocessing.Pool(2) as pool:
        assert pool.map(lambda x: x * factor, range(3)) == [0, 3, 6]


def test_pool_imap_of_a_generator(multiprocessing: Any) -> None:
    with multiprocessing.Pool(2) as pool:
        assert list(pool.imap(square, (i for i in range(6)), chunksize=2)) == [0, 1, 4, 9, 16, 25]


def test_joblib(engine: Any, part: Any) -> None:
    joblib = pytest.importorskip("joblib")
    part("util.joblib").register_ray()
    with joblib.parallel_backend("ray", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(square)(i) for i in range(20))
    assert results == [i * i for i in range(20)]


def test_joblib_errors(engine: Any, part: Any) -> None:
    joblib = pytest.importorskip("joblib")

    def fail(x: int) -> int:
        raise KeyError(x)

    part("util.joblib").register_ray()
    with joblib.parallel_backend("ray", n_jobs=2), pytest.raises(KeyError):
        joblib.Parallel()(joblib.delayed(fail)(i) for i in range(4))


def test_as_completed(engine: Any, part: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def give(i: int) -> int:
        if i == 0:
            until_there(str(tmp_path / "go"))
        return i

    seen = []
    for value in part("util").as_completed([give.remote(i) for i in range(4)], chunk_size=1):
        seen.append(value)
        if len(seen) == 3:
            (tmp_path / "go").touch()
    assert sorted(seen) == [0, 1, 2, 3]
    assert seen[-1] == 0


def test_map_unordered(engine: Any, part: Any) -> None:
    @engine.remote
    def double(x: int) -> int:
        return 2 * x

    assert sorted(part("util").map_unordered(double, range(8), backpressure_size=3)) == [2 * i for i in range(8)]


def test_inspect_serializability(part: Any) -> None:
    import threading

    inspect = part("util").inspect_serializability
    assert inspect([1, 2], name="fine")[0] is True
    serializable, failures = inspect(threading.Lock(), name="lock")
    assert serializable is False
    assert failures

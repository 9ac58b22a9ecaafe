"""`multiprocessing.Pool` on the cluster: the standard library's semantics."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.exceptions import TaskCancelledError
from atoll.util.multiprocessing import Pool
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number**2


def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.005)
    return path


@pytest.fixture
def pool(session: Any) -> Iterator[Pool]:
    made = Pool(2)
    yield made
    made.terminate()
    made.join()


def test_apply_and_maps_return_what_the_standard_librarys_do(pool: Pool) -> None:
    assert pool.apply(pow, (2, 5)) == 32
    assert pool.apply(int, ("ff",), {"base": 16}) == 255
    assert pool.map(square, range(11)) == [n**2 for n in range(11)]
    assert pool.map(square, range(11), chunksize=3) == [n**2 for n in range(11)]
    assert pool.map(square, []) == []
    assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert list(pool.imap(square, range(5), chunksize=2)) == [0, 1, 4, 9, 16]
    assert sorted(pool.imap_unordered(square, range(5))) == [0, 1, 4, 9, 16]
    assert pool.starmap_async(pow, [(2, 3)]).get(timeout=PATIENCE_S) == [8]


def test_what_a_call_raises_is_raised_by_its_result(pool: Pool) -> None:
    with pytest.raises(ValueError, match="-1 is negative") as caught:
        pool.map(square, [1, -1, 2])
    assert type(caught.value) is ValueError
    assert "square" in str(caught.value.__cause__)
    results = pool.imap(square, [1, -1, 2])
    assert next(results) == 1
    with pytest.raises(ValueError, match="negative"):
        next(results)
    assert next(results) == 4


def test_callbacks_are_told(pool: Pool) -> None:
    told: list[Any] = []
    pool.apply_async(square, (3,), callback=told.append).wait(10)
    pool.map_async(square, [1, 2], callback=told.append).wait(10)
    pool.apply_async(square, (-3,), callback=told.append, error_callback=lambda error: told.append(str(error))).wait(10)
    assert told == [9, [1, 4], "-3 is negative"]


def test_an_async_result_knows_whether_it_is_ready(pool: Pool, tmp_path: Path) -> None:
    result = pool.apply_async(wait_for, (str(tmp_path / "go"),))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    (tmp_path / "go").touch()
    assert result.get(timeout=PATIENCE_S) == str(tmp_path / "go")
    assert result.ready()
    assert result.successful()
    failed = pool.apply_async(square, (-1,))
    failed.wait(10)
    assert not failed.successful()


def test_imap_takes_from_an_endless_iterable_as_results_are_taken(pool: Pool) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = pool.imap(square, numbers())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) < 12


def test_imap_unordered_gives_first_what_is_there_first(pool: Pool, tmp_path: Path) -> None:
    late = tmp_path / "late"
    results = pool.imap_unordered(wait_for, [str(late), str(tmp_path)])
    assert results.next(timeout=PATIENCE_S) == str(tmp_path)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    late.touch()
    assert results.next(timeout=PATIENCE_S) == str(late)
    with pytest.raises(StopIteration):
        results.next()


def test_an_error_of_the_iterable_is_raised_in_its_turn(pool: Pool) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("the source")

    results = pool.imap(square, broken())
    assert next(results) == 1
    with pytest.raises(KeyError, match="the source"):
        next(results)


def test_a_closed_pool_ends_what_it_has_and_takes_nothing_more(pool: Pool) -> None:
    result = pool.map_async(square, range(20))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.join()
    assert result.ready()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))


def test_terminate_gives_up_what_waits_and_interrupts_what_runs(tmp_path: Path) -> None:
    with Pool(1) as pool:
        running = pool.apply_async(wait_for, (str(tmp_path / "never"),))
        waiting = pool.apply_async(square, (1,))
        time.sleep(0.2)
    pool.join()
    for result in (running, waiting):
        with pytest.raises(TaskCancelledError):
            result.get(timeout=PATIENCE_S)


def test_the_initializer_runs_in_each_worker_before_its_first_call(tmp_path: Path) -> None:
    def begin(path: str) -> None:
        os.environ["BEGUN"] = "yes"
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")

    def look(_number: int) -> tuple[str, int]:
        return os.environ["BEGUN"], os.getpid()

    with Pool(2, initializer=begin, initargs=(str(tmp_path / "log"),)) as pool:
        seen = pool.map(look, range(8))
    assert {begun for begun, _pid in seen} == {"yes"}
    logged = (tmp_path / "log").read_text().split()
    assert len(logged) == len(set(logged))
    assert {str(pid) for _begun, pid in seen} <= set(logged)


def test_a_worker_is_replaced_after_its_tasks() -> None:
    with Pool(1, maxtasksperchild=2, remote_args={"num_cpus": 2}) as pool:
        pids = [pool.apply(os.getpid) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_wrong_arguments_are_refused(session: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pool(0)
    with pytest.raises(TypeError, match="callable"):
        Pool(1, initializer=3)  # type: ignore[arg-type]
    with Pool(1) as pool:
        with pytest.raises(ValueError, match="Chunksize"):
            pool.map(square, [1], chunksize=0)
        with pytest.raises(NotImplementedError):
            pickle.dumps(pool)


def test_ray_names_of_its_arguments_are_taken(session: Any) -> None:
    with Pool(ray_remote_args={"num_cpus": 2}) as pool:
        assert pool.apply(len, (atoll.put([1, 2]),)) == 2

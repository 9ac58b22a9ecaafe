"""ActorPool, as_completed, map_unordered, inspect_serializability."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.exceptions import GetTimeoutError
from atoll.util import ActorPool, as_completed, inspect_serializability, list_named_actors, map_unordered
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


@atoll.remote
class Doubler:
    def double(self, value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return 2 * value

    def wait_for(self, path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.005)
        return path


@pytest.fixture
def actors() -> Iterator[list[Any]]:
    made = [Doubler.remote(), Doubler.remote()]
    yield made
    for actor in made:
        atoll.kill(actor)


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def test_map_gives_results_in_the_order_of_the_values(actors: list[Any]) -> None:
    pool = ActorPool(actors)
    assert list(pool.map(double, range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert sorted(pool.map_unordered(double, range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert not pool.has_next()


def test_unordered_gives_first_what_is_there_first(actors: list[Any], tmp_path: Path) -> None:
    pool = ActorPool(actors)
    late = tmp_path / "late"
    pool.submit(lambda actor, path: actor.wait_for.remote(path), str(late))
    pool.submit(double, 21)
    assert pool.get_next_unordered(timeout=PATIENCE_S) == 42
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0.01)
    late.touch()
    assert pool.get_next_unordered(timeout=PATIENCE_S) == str(late)
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_a_result_that_is_late_can_be_waited_for_or_given_up(actors: list[Any], tmp_path: Path) -> None:
    pool = ActorPool(actors)
    pool.submit(lambda actor, path: actor.wait_for.remote(path), str(tmp_path / "never"))
    pool.submit(double, 5)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01)
    with pytest.raises(TimeoutError, match="given up"):
        pool.get_next(timeout=0.01, ignore_if_timedout=True)
    assert pool.get_next(timeout=PATIENCE_S) == 10
    (tmp_path / "never").touch()


def test_idle_actors_come_and_go(actors: list[Any]) -> None:
    pool = ActorPool(actors)
    assert pool.has_free()
    first = pool.pop_idle()
    assert first in actors
    pool.submit(double, 1)
    assert not pool.has_free()
    assert pool.pop_idle() is None
    pool.submit(double, 2)  # waits
    pool.push(first)  # takes it
    with pytest.raises(ValueError, match="already"):
        pool.push(first)
    assert [pool.get_next(), pool.get_next()] == [2, 4]


def test_get_next_cannot_follow_get_next_unordered(actors: list[Any], tmp_path: Path) -> None:
    pool = ActorPool(actors)
    late = tmp_path / "late"
    pool.submit(lambda actor, path: actor.wait_for.remote(path), str(late))
    pool.submit(double, 1)
    pool.submit(lambda actor, path: actor.wait_for.remote(path), str(tmp_path))
    assert pool.get_next_unordered(timeout=PATIENCE_S) == 2  # the second, and the turn of the first is over
    assert pool.get_next(timeout=PATIENCE_S) == str(tmp_path)
    with pytest.raises(ValueError, match="order"):
        pool.get_next()
    late.touch()
    assert pool.get_next_unordered(timeout=PATIENCE_S) == str(late)


def test_an_actor_whose_call_raised_stays_in_the_pool(actors: list[Any]) -> None:
    pool = ActorPool(actors[:1])
    results = pool.map(double, [-1, 3])
    with pytest.raises(ValueError, match="negative"):
        next(results)
    assert pool.get_next() == 6


@atoll.remote(num_cpus=0)
def after(path: str, value: int) -> int:
    while not Path(path).exists():
        time.sleep(0.005)
    return value


def test_as_completed_yields_in_the_order_of_completion(tmp_path: Path) -> None:
    late = tmp_path / "late"
    refs = [after.remote(str(late), 1), after.remote(str(tmp_path), 2)]
    values = as_completed(refs, chunk_size=1)
    assert next(values) == 2
    late.touch()
    assert list(values) == [1]
    assert list(as_completed(refs, yield_obj_refs=True)) == refs


def test_as_completed_says_when_nothing_comes(tmp_path: Path) -> None:
    ref = after.remote(str(tmp_path / "late"), 1)
    with pytest.raises(GetTimeoutError):
        list(as_completed([ref], timeout=0.01))
    with pytest.raises(ValueError, match="chunk_size"):
        as_completed([ref], chunk_size=0)
    with pytest.raises(ValueError, match="num_returns"):
        as_completed([ref], num_returns=1)
    (tmp_path / "late").touch()
    assert atoll.get(ref, timeout=PATIENCE_S) == 1


def test_map_unordered_keeps_a_bounded_number_in_flight() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            yield number

    @atoll.remote
    def square(number: int) -> int:
        return number**2

    values = map_unordered(square, items(), backpressure_size=4, chunk_size=2)
    first = next(values)
    assert len(taken) <= 4
    assert sorted([first, *values]) == [number**2 for number in range(30)]
    with pytest.raises(ValueError, match="backpressure_size"):
        map_unordered(square, items(), backpressure_size=0)


def test_what_does_not_pickle_is_found_and_named() -> None:
    lock = threading.Lock()

    class Holder:
        def __init__(self) -> None:
            self.inner = {"deep": lock}

    holder = Holder()

    def uses() -> Any:
        return holder

    printed = io.StringIO()
    can, failures = inspect_serializability(uses, name="uses", print_file=printed)
    assert not can
    assert [failure.obj for failure in failures] == [lock]
    assert "deep" in printed.getvalue()
    assert inspect_serializability(lambda: 1, print_file=io.StringIO()) == (True, set())


def test_named_actors_are_listed() -> None:
    @atoll.remote
    class Named:
        pass

    named = Named.options(name="a-name").remote()
    assert list_named_actors() == ["a-name"]
    assert {"namespace": "", "name": "a-name"} in list_named_actors(all_namespaces=True)
    atoll.kill(named)

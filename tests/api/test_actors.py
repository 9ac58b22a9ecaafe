"""Actors, as users see them, on a real cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.exceptions import ActorDiedError, ActorUnavailableError
from tests.nodeagent.running import is_alive
from tests.patience import PATIENCE_S, eventually

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


@atoll.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise LookupError("not in the table")

    @atoll.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.value, -self.value


def test_calls_run_in_order_on_one_state() -> None:
    counter = Counter.remote(10)
    assert atoll.get([counter.add.remote() for _ in range(200)]) == list(range(11, 211))
    one, other = counter.pair.remote()
    assert (atoll.get(one), atoll.get(other)) == (210, -210)


@pytest.mark.parametrize("first_s", [0.0, 0.1])
def test_an_answer_does_not_wait_for_the_call_behind_it(first_s: float, tmp_path: Path) -> None:
    @atoll.remote
    class Sleeper:
        def sleep(self, duration_s: float, path: str = "/") -> None:
            time.sleep(duration_s)
            while not Path(path).exists():
                time.sleep(0.01)

    go = tmp_path / "go"
    sleeper = Sleeper.remote()
    atoll.get(sleeper.sleep.remote(0))
    first, second = sleeper.sleep.remote(first_s), sleeper.sleep.remote(0, str(go))
    atoll.get(first, timeout=PATIENCE_S)
    go.touch()
    atoll.get(second)


def test_a_failing_method_leaves_the_actor_alive() -> None:
    counter = Counter.remote()
    with pytest.raises(LookupError, match="not in the table"):
        atoll.get(counter.fail.remote())
    assert atoll.get(counter.add.remote()) == 1


def test_a_call_waits_for_its_arguments_and_holds_back_those_behind_it() -> None:
    @atoll.remote
    def slow() -> int:
        time.sleep(0.2)
        return 5

    counter = Counter.remote()
    assert atoll.get([counter.add.remote(slow.remote()), counter.add.remote(1)]) == [5, 6]


def test_handles_travel_to_tasks_and_actors() -> None:
    @atoll.remote
    def bump(counter: Any) -> int:
        value: int = atoll.get(counter.add.remote(2))
        return value

    counter = Counter.remote()
    assert sorted(atoll.get([bump.remote(counter) for _ in range(3)])) == [2, 4, 6]


def test_names_find_actors_and_are_free_again_after_kill() -> None:
    counter = Counter.options(name="tally").remote(7)
    assert atoll.get(atoll.get_actor("tally").add.remote()) == 8
    with pytest.raises(ValueError, match="tally"):
        Counter.options(name="tally").remote()
    again = Counter.options(name="tally", get_if_exists=True).remote(100)
    assert atoll.get(again.add.remote()) == 9
    atoll.kill(counter)
    with pytest.raises(ActorDiedError):
        atoll.get(counter.add.remote(), timeout=PATIENCE_S)
    with pytest.raises(ValueError, match="tally"):
        atoll.get_actor("tally")
    fresh = Counter.options(name="tally").remote()
    assert atoll.get(fresh.add.remote(), timeout=PATIENCE_S) == 1
    atoll.kill(fresh)


def test_a_detached_actor_outlives_its_session_and_another_does_not() -> None:
    named = Counter.options(name="survivor", lifetime="detached").remote(1)
    anonymous = Counter.remote()
    pid = atoll.get(anonymous.pid.remote())
    assert atoll.get(named.add.remote()) == 2
    atoll.shutdown()
    found = atoll.get_actor("survivor")
    assert atoll.get(found.add.remote()) == 3
    eventually(lambda: not is_alive(pid), "the other's process has ended")
    atoll.kill(found)


def test_r3_an_actor_that_dies_says_so_or_comes_back() -> None:
    mortal = Counter.remote()
    os.kill(atoll.get(mortal.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError, match=r"signal 9|SIGKILL"):
        atoll.get(mortal.add.remote(), timeout=PATIENCE_S)

    phoenix = Counter.options(max_restarts=1, max_task_retries=2).remote(40)
    assert atoll.get(phoenix.add.remote()) == 41
    os.kill(atoll.get(phoenix.pid.remote()), signal.SIGKILL)
    assert atoll.get(phoenix.add.remote(), timeout=PATIENCE_S) == 41


def test_a_call_on_a_restarting_actor_without_retries_is_unavailable_or_runs() -> None:
    actor = Counter.options(max_restarts=-1).remote()
    pid = atoll.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    try:
        assert atoll.get(actor.add.remote(), timeout=PATIENCE_S) == 1
    except ActorUnavailableError:
        assert atoll.get(actor.add.remote(), timeout=PATIENCE_S) == 1


def test_an_actor_that_dies_in_its_constructor_shows_why() -> None:
    @atoll.remote
    class Broken:
        def __init__(self) -> None:
            raise FileNotFoundError("no weights at /models")

        def use(self) -> None: ...

    with pytest.raises(ActorDiedError, match="no weights") as caught:
        atoll.get(Broken.remote().use.remote(), timeout=PATIENCE_S)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert "raise FileNotFoundError" in str(caught.value)


def test_many_actors_on_two_cpus() -> None:
    counters = [Counter.remote(i) for i in range(10)]
    assert atoll.get([counter.add.remote() for counter in counters], timeout=PATIENCE_S) == list(range(1, 11))
    for counter in counters:
        atoll.kill(counter)


def test_actors_call_each_other() -> None:
    @atoll.remote
    class Node:
        def __init__(self) -> None:
            self.other: Any = None

        def meet(self, other: Any) -> None:
            self.other = other

        def ping(self, left: int) -> int:
            return 0 if left == 0 else 1 + int(atoll.get(self.other.echo.remote(left)) > 0)

        def echo(self, value: int) -> int:
            return value

    one, two = Node.remote(), Node.remote()
    atoll.get([one.meet.remote(two), two.meet.remote(one)])
    assert atoll.get([one.ping.remote(1), two.echo.remote(3)], timeout=PATIENCE_S) == [2, 3]


def test_threaded_actors_run_calls_at_once() -> None:
    @atoll.remote(max_concurrency=4)
    class Crowd:
        def __init__(self) -> None:
            self.all_there = threading.Barrier(4)

        def meet(self) -> bool:
            self.all_there.wait(timeout=PATIENCE_S)  # breaks unless four calls are here at once
            return True

    actor = Crowd.remote()
    assert atoll.get([actor.meet.remote() for _ in range(4)], timeout=PATIENCE_S) == [True] * 4


def test_wrong_uses_are_refused_where_they_are_made() -> None:
    with pytest.raises(TypeError, match="too many positional"):
        Counter.remote(1, 2, 3)
    with pytest.raises(TypeError, match=r"\.remote"):
        Counter(1)
    counter = Counter.remote()
    with pytest.raises(AttributeError, match="no method 'substract'"):
        _ = counter.substract
    with pytest.raises(TypeError, match=r"\.add\.remote"):
        counter.add()
    with pytest.raises(ValueError, match="get_if_exists"):
        Counter.options(get_if_exists=True)

"""Actors: the order of calls, threads, asyncio, concurrency groups, and calls that wait."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def log_class(engine: Any) -> Any:
    """An actor that notes what it is told, in the order in which it is told."""

    @engine.remote
    class Log:
        def __init__(self) -> None:
            self.lines: list[Any] = []

        def note(self, line: Any) -> None:
            self.lines.append(line)

        def read(self) -> list[Any]:
            return self.lines

    return Log


def test_calls_of_one_caller_run_in_order(engine: Any, log_class: Any) -> None:
    log = log_class.remote()
    for i in range(100):
        log.note.remote(i)
    assert engine.get(log.read.remote()) == list(range(100))


def test_a_call_whose_argument_is_late_holds_its_followers(
    engine: Any, log_class: Any, until_there: Any, tmp_path: Path
) -> None:
    @engine.remote
    def late() -> str:
        until_there(str(tmp_path / "go"))
        return "late"

    log = log_class.remote()
    first = log.note.remote(late.remote())
    second = log.note.remote("after")
    assert engine.wait([first, second], timeout=0.3)[0] == []
    (tmp_path / "go").touch()
    assert engine.get(log.read.remote()) == ["late", "after"]


def test_each_callers_calls_run_in_order(engine: Any, log_class: Any) -> None:
    @engine.remote
    def tell(log: Any, name: str) -> None:
        engine.get([log.note.remote((name, i)) for i in range(30)])

    log = log_class.remote()
    engine.get([tell.remote(log, name) for name in "abc"])
    lines = engine.get(log.read.remote())
    for name in "abc":
        assert [i for who, i in lines if who == name] == list(range(30))


def test_calls_of_one_handle_run_one_after_another(engine: Any) -> None:
    @engine.remote
    class Single:
        inside = 0

        def enter(self) -> int:
            self.inside += 1
            time.sleep(0.01)
            seen = self.inside
            self.inside -= 1
            return seen

    single = Single.remote()
    assert set(engine.get([single.enter.remote() for _ in range(10)])) == {1}


def test_threads(engine: Any) -> None:
    @engine.remote(max_concurrency=3)
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3)

        def meet(self) -> int:
            self.barrier.wait(20)
            return threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(engine.get([meeting.meet.remote() for _ in range(3)], timeout=30))) == 3


def test_no_more_threads_than_said(engine: Any) -> None:
    @engine.remote(max_concurrency=2)
    class Crowd:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.inside = self.most = 0

        def enter(self) -> None:
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            time.sleep(0.02)
            with self.lock:
                self.inside -= 1

        def read(self) -> int:
            return self.most

    crowd = Crowd.remote()
    engine.get([crowd.enter.remote() for _ in range(10)])
    assert engine.get(crowd.read.remote()) == 2


def test_a_threaded_method_that_raises(engine: Any) -> None:
    @engine.remote(max_concurrency=2)
    class Some:
        def fail(self) -> None:
            raise KeyError("threaded")

        def one(self) -> int:
            return 1

    some = Some.remote()
    with pytest.raises(KeyError):
        engine.get(some.fail.remote())
    assert engine.get(some.one.remote()) == 1


def test_asyncio_methods(engine: Any) -> None:
    @engine.remote
    class Async:
        async def add(self, a: int, b: int = 1) -> int:
            await asyncio.sleep(0)
            return a + b

    actor = Async.remote()
    assert engine.get([actor.add.remote(i) for i in range(5)]) == [1, 2, 3, 4, 5]


def test_asyncio_methods_interleave(engine: Any) -> None:
    @engine.remote
    class Meeting:
        def __init__(self) -> None:
            self.event = asyncio.Event()

        async def wait(self) -> str:
            await self.event.wait()
            return "met"

        async def open(self) -> None:
            self.event.set()

    meeting = Meeting.remote()
    waiting = [meeting.wait.remote() for _ in range(20)]
    meeting.open.remote()
    assert engine.get(waiting, timeout=30) == ["met"] * 20


def test_asyncio_methods_share_one_loop_and_thread(engine: Any) -> None:
    @engine.remote
    class Async:
        async def where(self) -> tuple[int, int]:
            return threading.get_ident(), id(asyncio.get_running_loop())

    actor = Async.remote()
    assert len(set(engine.get([actor.where.remote() for _ in range(5)]))) == 1


def test_no_more_asyncio_calls_than_said(engine: Any) -> None:
    @engine.remote(max_concurrency=2)
    class Crowd:
        inside = most = 0

        async def enter(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.01)
            self.inside -= 1

        async def read(self) -> int:
            return self.most

    crowd = Crowd.remote()
    engine.get([crowd.enter.remote() for _ in range(10)])
    assert engine.get(crowd.read.remote()) == 2


def test_plain_methods_of_an_asyncio_actor(engine: Any) -> None:
    @engine.remote
    class Mixed:
        async def slow(self) -> str:
            await asyncio.sleep(0.01)
            return "slow"

        def plain(self) -> str:
            return "plain"

    mixed = Mixed.remote()
    assert engine.get([mixed.slow.remote(), mixed.plain.remote()]) == ["slow", "plain"]


def test_refs_are_awaited_in_an_asyncio_actor(engine: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    @engine.remote
    class Async:
        async def gather(self) -> int:
            return sum(await asyncio.gather(*[one.remote() for _ in range(4)]))

        async def awaits(self, box: list[Any]) -> Any:
            return await box[0]

    actor = Async.remote()
    assert engine.get(actor.gather.remote()) == 4
    assert engine.get(actor.awaits.remote([engine.put("inside")])) == "inside"


def test_an_asyncio_method_that_raises(engine: Any) -> None:
    @engine.remote
    class Async:
        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise KeyError("awaited")

        async def one(self) -> int:
            return 1

    actor = Async.remote()
    with pytest.raises(KeyError):
        engine.get(actor.fail.remote())
    assert engine.get(actor.one.remote()) == 1


def test_asyncio_actors_call_each_other(engine: Any) -> None:
    @engine.remote
    class Node:
        def __init__(self, next_node: Any = None) -> None:
            self.next_node = next_node

        async def depth(self) -> int:
            return 1 + (await self.next_node.depth.remote() if self.next_node else 0)

    node = None
    for _ in range(3):
        node = Node.remote(node)
    assert engine.get(node.depth.remote(), timeout=30) == 3


def test_background_tasks_of_an_asyncio_actor_go_on_between_calls(engine: Any, eventually: Any) -> None:
    @engine.remote
    class Ticker:
        ticks = 0

        async def start(self) -> None:
            self.task = asyncio.create_task(self.tick())

        async def tick(self) -> None:
            while True:
                self.ticks += 1
                await asyncio.sleep(0.01)

        async def read(self) -> int:
            return self.ticks

    ticker = Ticker.remote()
    engine.get(ticker.start.remote())
    eventually(lambda: engine.get(ticker.read.remote()) > 5)


def test_concurrency_groups_of_an_asyncio_actor(engine: Any) -> None:
    @engine.remote(concurrency_groups={"io": 2, "compute": 1})
    class Grouped:
        opened = False

        @engine.method(concurrency_group="io")
        async def wait(self) -> str:
            while not self.opened:
                await asyncio.sleep(0.01)
            return "waited"

        @engine.method(concurrency_group="compute")
        async def open(self) -> str:
            self.opened = True
            return "opened"

        async def default(self) -> str:
            return "default"

    grouped = Grouped.remote()
    waiting = [grouped.wait.remote() for _ in range(4)]
    assert engine.get(grouped.default.remote(), timeout=30) == "default"
    assert engine.wait(waiting, timeout=0.2)[0] == []
    assert engine.get(grouped.open.remote(), timeout=30) == "opened"
    assert engine.get(waiting, timeout=30) == ["waited"] * 4


def test_concurrency_groups_of_a_threaded_actor(engine: Any) -> None:
    @engine.remote(concurrency_groups={"io": 2, "compute": 1})
    class Grouped:
        def __init__(self) -> None:
            self.event = threading.Event()
            self.lock = threading.Lock()
            self.inside = self.most = 0

        @engine.method(concurrency_group="io")
        def wait(self) -> bool:
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            done = self.event.wait(20)
            with self.lock:
                self.inside -= 1
            return done

        @engine.method(concurrency_group="compute")
        def open(self) -> None:
            while self.most < 2:
                time.sleep(0.01)
            self.event.set()

        def read(self) -> int:
            return self.most

    grouped = Grouped.remote()
    waiting = [grouped.wait.remote() for _ in range(4)]
    engine.get(grouped.open.remote(), timeout=30)
    assert engine.get(waiting, timeout=30) == [True] * 4
    assert engine.get(grouped.read.remote(), timeout=30) == 2


def test_the_concurrency_group_of_a_call(engine: Any) -> None:
    @engine.remote(concurrency_groups={"io": 1})
    class Grouped:
        def __init__(self) -> None:
            self.event = threading.Event()

        @engine.method(concurrency_group="io")
        def wait(self) -> bool:
            return self.event.wait(20)

        def open(self) -> None:
            self.event.set()

    grouped = Grouped.remote()
    waiting = grouped.wait.remote()
    engine.get(grouped.open.remote(), timeout=30)
    assert engine.get(waiting, timeout=30) is True
    assert engine.get(grouped.open.options(concurrency_group="io").remote(), timeout=30) is None


def test_too_many_pending_calls_are_refused(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote(max_pending_calls=3)
    class Busy:
        def wait(self) -> None:
            until_there(str(tmp_path / "go"))

        def one(self) -> int:
            return 1

    busy = Busy.remote()
    refs = [busy.wait.remote() for _ in range(3)]
    with pytest.raises(engine.exceptions.PendingCallsLimitExceeded):
        busy.one.remote()
    (tmp_path / "go").touch()
    engine.get(refs, timeout=30)
    assert engine.get(busy.one.remote(), timeout=30) == 1


def test_pending_calls_by_options(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    class Busy:
        def wait(self) -> None:
            until_there(str(tmp_path / "go"))

    busy = Busy.options(max_pending_calls=1).remote()
    ref = busy.wait.remote()
    with pytest.raises(engine.exceptions.PendingCallsLimitExceeded):
        busy.wait.remote()
    (tmp_path / "go").touch()
    engine.get(ref, timeout=30)


def test_an_actor_that_waits_for_a_task_that_calls_it(engine: Any) -> None:
    @engine.remote
    def call_back(handle: Any) -> int:
        return int(engine.get(handle.one.remote()))

    @engine.remote
    class Async:
        async def ask(self, box: list[Any]) -> int:
            return int(await call_back.remote(box[0]))

        async def one(self) -> int:
            return 1

    actor = Async.remote()
    assert engine.get(actor.ask.remote([actor]), timeout=30) == 1


def test_an_asyncio_actor_has_many_calls_at_once_by_default(engine: Any) -> None:
    @engine.remote
    class Crowd:
        inside = 0

        async def enter(self, expected: int) -> bool:
            self.inside += 1
            while self.inside < expected:
                await asyncio.sleep(0.005)
            return True

    crowd = Crowd.remote()
    assert engine.get([crowd.enter.remote(200) for _ in range(200)], timeout=50) == [True] * 200


def test_thread_local_state_and_locks_are_the_actors_own(engine: Any) -> None:
    @engine.remote(max_concurrency=4)
    class Counter:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.value = 0

        def add(self) -> None:
            for _ in range(100):
                with self.lock:
                    self.value += 1

        def read(self) -> int:
            return self.value

    counter = Counter.remote()
    engine.get([counter.add.remote() for _ in range(8)])
    assert engine.get(counter.read.remote()) == 800

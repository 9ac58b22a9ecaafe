"""Actors that answer several calls at once, by threads and by coroutines, on a real cluster."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.exceptions import TaskCancelledError
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


@atoll.remote
class Coroutines:
    def __init__(self) -> None:
        asyncio.get_running_loop()
        self.gate = asyncio.Event()
        self.waiting = 0
        self.seen: list[str] = []

    async def wait(self) -> int:
        self.waiting += 1
        await self.gate.wait()
        return self.waiting

    async def open(self) -> int:
        self.gate.set()
        return self.waiting

    def count(self) -> int:
        asyncio.get_running_loop()  # a plain method runs on the loop, too
        return self.waiting

    async def hang(self) -> None:
        self.seen.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise

    async def stubborn(self) -> str:
        self.seen.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "not me"
        return "slept"

    async def history(self) -> list[str]:
        return self.seen

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("not here")

    async def values(self, refs: list[Any]) -> list[Any]:
        first = await refs[0]
        return [first, *await asyncio.gather(*refs[1:])]

    async def say(self, word: str, barrier: int) -> str:
        print(f"{word} 1")
        self.waiting += 1
        while self.waiting < barrier:
            await asyncio.sleep(0.001)
        print(f"{word} 2")
        return atoll.get_runtime_context().get_task_id() or ""

    async def take(self, value: int) -> int:
        self.seen.append(str(value))
        return value


def test_coroutines_run_at_once_and_plain_methods_beside_them() -> None:
    actor = Coroutines.remote()
    waiting = [actor.wait.remote() for _ in range(200)]
    while atoll.get(actor.count.remote()) < 200:
        pass
    assert atoll.get(actor.open.remote()) == 200
    assert atoll.get(waiting) == [200] * 200


def test_max_concurrency_limits_coroutines_which_begin_in_order() -> None:
    actor = Coroutines.options(max_concurrency=2).remote()
    waiting = [actor.wait.remote()]
    while atoll.get(actor.count.remote()) < 1:
        pass
    waiting.append(actor.wait.remote())
    third = actor.count.remote()
    assert atoll.wait([third], timeout=0.1) == ([], [third]), "two run already"
    atoll.cancel(waiting[0])
    assert atoll.get(third) == 2, "it takes the place of the one that was cancelled"
    with pytest.raises(TaskCancelledError):
        atoll.get(waiting[0])
    assert atoll.get(actor.open.remote()) == 2
    numbers = [actor.take.remote(number) for number in range(100)]
    assert atoll.get(numbers) == list(range(100))
    assert atoll.get(actor.history.remote()) == [str(number) for number in range(100)]


def test_a_coroutine_is_cancelled_as_asyncio_cancels() -> None:
    actor = Coroutines.remote()
    hanging, stubborn = actor.hang.remote(), actor.stubborn.remote()
    while atoll.get(actor.history.remote()) != ["begun", "begun"]:
        pass
    atoll.cancel(hanging)
    with pytest.raises(TaskCancelledError):
        atoll.get(hanging, timeout=PATIENCE_S)
    assert atoll.get(actor.history.remote()) == ["begun", "begun", "cancelled"]
    atoll.cancel(stubborn)
    assert atoll.get(stubborn, timeout=PATIENCE_S) == "not me", "what catches its cancellation may return"


def test_a_failing_coroutine_shows_its_exception_and_disturbs_nobody() -> None:
    actor = Coroutines.remote()
    with pytest.raises(LookupError, match="not here"):
        atoll.get(actor.fail.remote())
    assert atoll.get(actor.count.remote()) == 0


def test_refs_are_awaited_in_coroutines() -> None:
    @atoll.remote
    def double(value: int) -> int:
        return 2 * value

    actor = Coroutines.remote()
    assert atoll.get(actor.values.remote([double.remote(i) for i in range(5)])) == [0, 2, 4, 6, 8]


def test_what_coroutines_print_and_ask_is_each_one_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    lines: dict[str, list[str]] = {"a": [], "b": []}

    def listen(word: str) -> Any:
        return lambda _kind, payload: lines[word].append(payload.decode())

    actor = Coroutines.remote()
    refs = [actor.say.options(_on_output=listen(word)).remote(word, 2) for word in lines]
    ids = atoll.get(refs)
    assert ids == [ref.task_id().hex() for ref in refs]
    assert {word: "".join(parts) for word, parts in lines.items()} == {"a": "a 1\na 2\n", "b": "b 1\nb 2\n"}


@atoll.remote(max_concurrency=3)
class Crowd:
    def __init__(self) -> None:
        self.gate = threading.Event()
        self.began: list[int] = []

    def wait(self, number: int) -> int:
        self.began.append(number)
        self.gate.wait(30)
        return number

    def begun(self) -> list[int]:
        return self.began

    def open(self) -> list[int]:
        self.gate.set()
        return self.began


def test_threads_run_so_many_calls_and_queued_ones_are_cancelled() -> None:
    actor = Crowd.remote()
    running = [actor.wait.remote(number) for number in range(2)]
    while len(atoll.get(actor.begun.remote())) < 2:
        pass
    running.append(actor.wait.remote(2))
    queued, last = actor.wait.remote(3), actor.begun.remote()
    assert atoll.wait([queued, last], timeout=0.1)[0] == [], "three run, and these wait for a thread"
    atoll.cancel(queued)
    with pytest.raises(TaskCancelledError):
        atoll.get(queued, timeout=PATIENCE_S)
    atoll.cancel(running[0])
    assert atoll.wait([running[0], last], timeout=0.1)[0] == [], "what runs in a thread goes on, and three run"
    atoll.kill(actor)
    with pytest.raises(atoll.exceptions.ActorDiedError):
        atoll.get([*running, last], timeout=PATIENCE_S)


@atoll.remote(concurrency_groups={"io": 2, "compute": 1})
class Grouped:
    def __init__(self) -> None:
        self.all_there = threading.Barrier(2)
        self.gate = threading.Event()

    @atoll.method(concurrency_group="io")
    def meet(self) -> str:
        self.all_there.wait(timeout=PATIENCE_S)
        return threading.current_thread().name

    @atoll.method(concurrency_group="compute")
    def compute(self) -> str:
        self.gate.wait(30)
        return threading.current_thread().name

    def open(self) -> str:
        self.gate.set()
        return threading.current_thread().name


def test_concurrency_groups_have_threads_of_their_own() -> None:
    actor = Grouped.remote()
    busy = actor.compute.remote()
    there = [actor.meet.remote(), actor.meet.remote()]
    names = atoll.get(there, timeout=PATIENCE_S)
    assert len(set(names)) == 2
    elsewhere = actor.compute.options(concurrency_group="io").remote()
    opener = atoll.get(actor.open.remote())
    computing = atoll.get(busy)
    assert len({opener, computing, *names}) == 4
    assert atoll.get(elsewhere) in names
    with pytest.raises(ValueError, match="no concurrency group 'disk'"):
        atoll.get(actor.open.options(concurrency_group="disk").remote())


def test_a_blocked_group_of_coroutines_does_not_hold_up_another() -> None:
    @atoll.remote(concurrency_groups={"slow": 1})
    class Mixed:
        def __init__(self) -> None:
            self.gate = threading.Event()

        @atoll.method(concurrency_group="slow")
        async def block(self) -> bool:
            return self.gate.wait(30)

        async def open(self) -> None:
            self.gate.set()

    actor = Mixed.remote()
    blocked = actor.block.remote()
    atoll.get(actor.open.remote(), timeout=PATIENCE_S)
    assert atoll.get(blocked, timeout=PATIENCE_S)


def test_groups_that_make_no_sense_are_refused() -> None:
    class Wrong:
        @atoll.method(concurrency_group="oi")
        def call(self) -> None: ...

    with pytest.raises(ValueError, match="'oi'"):
        atoll.remote(concurrency_groups={"io": 2})(Wrong)
    with pytest.raises(ValueError, match="from 1"):
        atoll.remote(concurrency_groups={"io": 0, "oi": 1})(Wrong)
    with pytest.raises(ValueError, match="cannot promise their order"):
        atoll.remote(max_concurrency=2, allow_out_of_order_execution=False)(Crowd._user_class)


def test_calls_overtake_one_that_waits_for_its_arguments_where_order_is_not_promised() -> None:
    @atoll.remote
    class Gate:
        async def wait(self) -> int:
            while not getattr(self, "is_open", False):
                await asyncio.sleep(0.001)
            return 1

        async def open(self) -> None:
            self.is_open = True

    @atoll.remote(allow_out_of_order_execution=True)
    class Plain:
        def take(self, value: int) -> int:
            return value

    gate, threads, plain = Gate.remote(), Crowd.remote(), Plain.remote()
    slow = gate.wait.remote()
    late = [plain.take.remote(slow), threads.wait.remote(slow)]
    assert atoll.get(plain.take.remote(2), timeout=PATIENCE_S) == 2
    assert atoll.get(threads.open.remote(), timeout=PATIENCE_S) == []
    gate.open.remote()
    assert atoll.get(late, timeout=PATIENCE_S) == [1, 1]


def test_a_thread_that_blocks_in_get_does_not_stop_the_others() -> None:
    @atoll.remote(max_concurrency=2)
    class Waiting:
        def get(self, refs: list[Any]) -> Any:
            return atoll.get(refs[0])

        def now(self) -> float:
            return time.monotonic()

    actor, gate = Waiting.remote(), Coroutines.remote()
    waiting = actor.get.remote([gate.wait.remote()])
    assert atoll.get(actor.now.remote(), timeout=PATIENCE_S)
    gate.open.remote()
    assert atoll.get(waiting, timeout=PATIENCE_S) == 1


def test_waiting_in_a_coroutine_without_await_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    @atoll.remote
    class Impatient:
        async def get(self, refs: list[Any]) -> Any:
            return atoll.get(refs[0])

    said: list[str] = []
    actor = Impatient.remote()
    call = actor.get.options(_on_output=lambda _kind, payload: said.append(payload.decode()))
    assert atoll.get(call.remote([atoll.put(1)])) == 1
    waiting = Coroutines.remote()
    ref = call.remote([waiting.count.remote()])
    assert atoll.get(ref) == 0
    assert "await ref" in "".join(said)


def test_calls_that_run_at_once_are_on_the_timeline() -> None:
    actor = Coroutines.options(name="timed").remote()
    assert atoll.get([actor.take.remote(number) for number in range(5)]) == list(range(5))
    session = atoll.init()
    until = time.monotonic() + PATIENCE_S
    while sum(span.count for span in session.state().spans if span.name == "take") < 5:
        assert time.monotonic() < until, [(span.name, span.count) for span in session.state().spans]
        time.sleep(0.05)


def test_a_waiting_call_is_cancelled_where_it_waits(tmp_path: Path) -> None:
    @atoll.remote(max_concurrency=1)
    class Busy:
        async def wait(self) -> str:
            (tmp_path / "began").touch()
            while not (tmp_path / "go").exists():
                await asyncio.sleep(0.01)
            return "waited"

        async def act(self) -> None:
            (tmp_path / "acted").touch()

        async def one(self) -> int:
            return 1

    busy = Busy.remote()
    running = busy.wait.remote()
    until = time.monotonic() + PATIENCE_S
    while not (tmp_path / "began").exists():
        assert time.monotonic() < until, "the first call does not begin"
        time.sleep(0.01)
    waiting = busy.act.remote()
    atoll.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        atoll.get(waiting, timeout=PATIENCE_S)
    (tmp_path / "go").touch()
    assert atoll.get(running, timeout=PATIENCE_S) == "waited"
    assert atoll.get(busy.one.remote(), timeout=PATIENCE_S) == 1
    assert not (tmp_path / "acted").exists()

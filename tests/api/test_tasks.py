"""Tasks, as users see them, on a real cluster."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atoll
from atoll.client.core.dispatch import KEEP_IDLE_S
from atoll.client.session import Session
from atoll.exceptions import (
    GetTimeoutError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


@atoll.remote
def add(a: int, b: int = 1) -> int:
    return a + b


def test_a_task_returns_its_value() -> None:
    assert atoll.get(add.remote(1, 2)) == 3
    assert atoll.get([add.remote(i, b=i) for i in range(50)]) == [2 * i for i in range(50)]


def test_top_level_refs_arrive_as_values_and_nested_ones_as_refs() -> None:
    @atoll.remote
    def look(value: Any, nested: list[Any]) -> tuple[Any, str, Any]:
        return value, type(nested[0]).__name__, atoll.get(nested[0])

    ref = add.remote(1)
    assert atoll.get(look.remote(ref, [ref])) == (2, "ObjectRef", 2)


def test_a_chain_of_dependencies() -> None:
    ref = atoll.put(0)
    for _ in range(20):
        ref = add.remote(ref)
    assert atoll.get(ref) == 20


def test_a_ref_that_a_task_returns_outlives_the_task() -> None:
    @atoll.remote
    def make() -> list[Any]:
        return [atoll.put(np.arange(100_000)), add.remote(20, 22)]

    stored, computed = atoll.get(make.remote())
    assert atoll.get(stored).sum() == np.arange(100_000).sum()
    assert atoll.get(computed) == 42


def test_tasks_nest_deeper_than_there_are_cpus() -> None:
    @atoll.remote
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + atoll.get(down.remote(depth - 1))

    assert atoll.get(down.remote(6), timeout=PATIENCE_S) == 6


def test_several_returns() -> None:
    @atoll.remote(num_returns=3)
    def three() -> tuple[int, str, Any]:
        return 1, "two", np.zeros(50_000)

    one, two, zeros = three.remote()
    assert (atoll.get(one), atoll.get(two), atoll.get(zeros).shape) == (1, "two", (50_000,))


def test_an_error_is_the_users_own_exception_with_the_remote_traceback() -> None:
    class OwnError(ValueError):
        def __init__(self, text: str, code: int) -> None:
            super().__init__(text)
            self.code = code

    @atoll.remote
    def fail() -> None:
        raise OwnError("no such carrier", 7)

    with pytest.raises(ValueError, match="no such carrier") as caught:
        atoll.get(fail.remote())
    assert isinstance(caught.value, TaskError)
    assert type(caught.value.cause).__name__ == "OwnError"
    assert 'raise OwnError("no such carrier", 7)' in caught.value.remote_traceback
    assert "atoll/nodeagent" not in caught.value.remote_traceback


def test_an_error_passes_through_dependents() -> None:
    @atoll.remote
    def fail() -> int:
        raise KeyError("lost")

    with pytest.raises(KeyError):
        atoll.get(add.remote(fail.remote()))


def test_what_does_not_pickle_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        add.remote(lock)

    @atoll.remote
    def give_lock() -> Any:
        return threading.Lock()

    with pytest.raises(TaskError, match="lock"):
        atoll.get(give_lock.remote())
    assert atoll.get(add.remote(1)) == 2


def test_a_wrong_call_fails_where_it_is_made() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        add.remote()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="cannot be called directly"):
        add(1)


def test_an_unknown_option_names_the_near_one() -> None:
    with pytest.raises(ValueError, match="Did you mean num_gpus=1"):
        add.options(num_gpu=1)


def test_what_no_node_can_give_fails_at_once_and_says_the_largest() -> None:
    with pytest.raises(TaskUnschedulableError, match="9 GPU; the largest has 2"):
        atoll.get(add.options(num_gpus=9).remote(1), timeout=PATIENCE_S)


def test_a_gpu_task_sees_its_simulated_device_only() -> None:
    @atoll.remote(num_gpus=1)
    def devices() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    seen = atoll.get([devices.remote() for _ in range(4)])
    assert all(name.startswith("SIM-GPU-") and "," not in name for name in seen)


def test_get_with_a_timeout_and_wait(tmp_path: Path) -> None:
    @atoll.remote
    def until_there(path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.01)
        return path

    go = tmp_path / "go"
    slow, quick = until_there.remote(str(go)), until_there.remote(str(tmp_path))
    with pytest.raises(GetTimeoutError):
        atoll.get(slow, timeout=0.05)
    ready, rest = atoll.wait([slow, quick])
    assert (ready, rest) == ([quick], [slow])
    assert atoll.wait([]) == ([], [])
    with pytest.raises(ValueError, match="duplicates"):
        atoll.wait([slow, slow])
    go.touch()
    assert atoll.get(slow) == str(go)


def test_an_answer_does_not_wait_for_the_task_behind_it(tmp_path: Path) -> None:
    """Both CPUs make it one worker, and what is short so far makes tasks queue on it."""

    @atoll.remote(num_cpus=2)
    def until_there(path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.01)

    atoll.get([until_there.remote("/") for _ in range(50)])
    go = tmp_path / "go"
    refs = [until_there.remote("/") for _ in range(3)] + [until_there.remote(str(go))]
    atoll.get(refs[:3], timeout=PATIENCE_S)
    go.touch()
    atoll.get(refs[3])


def test_cancel_interrupts_what_runs_and_forgets_what_waits() -> None:
    @atoll.remote(num_cpus=2)
    def spin() -> None:
        while True:
            time.sleep(0.01)

    running, waiting = spin.remote(), spin.remote()
    time.sleep(0.3)
    atoll.cancel(waiting)
    atoll.cancel(running)
    for ref in (waiting, running):
        with pytest.raises(TaskCancelledError):
            atoll.get(ref, timeout=PATIENCE_S)
    assert atoll.get(add.remote(1), timeout=PATIENCE_S) == 2


class SlowToPickle:
    """Says when it begins to be pickled, which takes a while and is no code of the task."""

    def __init__(self, started: Path) -> None:
        self.started = started

    def __reduce__(self) -> Any:
        self.started.touch()
        time.sleep(0.3)
        return Path, (str(self.started),)


def slow_then_endless(started: Path) -> Any:
    try:
        yield SlowToPickle(started)
        while True:
            time.sleep(0.01)
    finally:
        started.with_suffix(".closed").touch()


@pytest.mark.parametrize("returns", [2, "streaming"])
def test_cancel_reaches_a_generator_whose_value_is_being_stored(tmp_path: Path, returns: Any) -> None:
    started = tmp_path / "started"
    made: Any = atoll.remote(slow_then_endless).options(num_returns=returns).remote(started)
    until = time.monotonic() + 10
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.005)
    atoll.cancel(made[0] if returns == 2 else made)
    last = made[0] if returns == 2 else list(made)[-1]
    with pytest.raises(TaskCancelledError):
        atoll.get(last, timeout=5)
    assert started.with_suffix(".closed").exists()


def test_cancel_by_force_ends_the_process() -> None:
    @atoll.remote
    def deaf(path: str) -> None:
        Path(path).write_text("began")
        while True:
            try:
                time.sleep(1)
            except KeyboardInterrupt:
                continue

    mark = Path(os.environ["ATOLL_RUNTIME_DIR"]) / "began"
    ref = deaf.remote(str(mark))
    while not mark.exists():
        time.sleep(0.01)
    mark.unlink()
    atoll.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        atoll.get(ref, timeout=PATIENCE_S)


def test_r1_a_killed_worker_is_noticed_and_its_task_retried(tmp_path: Path) -> None:
    @atoll.remote
    def die_once(path: str) -> str:
        if not Path(path).exists():
            Path(path).write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    assert atoll.get(die_once.remote(str(tmp_path / "died")), timeout=PATIENCE_S) == "survived"


def test_r2_a_task_that_always_kills_its_worker_fails_and_its_neighbours_go_on() -> None:
    @atoll.remote(max_retries=1)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    doomed = die.remote()
    neighbours = [add.remote(i) for i in range(20)]
    with pytest.raises(WorkerCrashedError, match=r"(?s)signal 9|SIGKILL"):
        atoll.get(doomed, timeout=PATIENCE_S)
    assert atoll.get(neighbours, timeout=PATIENCE_S) == [i + 1 for i in range(20)]


def test_prints_of_a_task_come_to_who_submitted_it(capsys: pytest.CaptureFixture[str]) -> None:
    @atoll.remote
    def talk() -> None:
        print("hello from afar")

    pieces: list[tuple[str, bytes]] = []
    atoll.get(talk.options(_on_output=lambda kind, payload: pieces.append((kind, payload))).remote())
    assert pieces == [("stdout", b"hello from afar\n")]
    atoll.get(talk.remote())
    assert re.fullmatch(r"\(talk pid=\d+\) hello from afar\n", capsys.readouterr().out)


def test_prints_of_a_task_that_a_task_has_submitted_come_too(capsys: pytest.CaptureFixture[str]) -> None:
    @atoll.remote
    def inner() -> None:
        print("from within", file=sys.stderr)

    @atoll.remote
    def outer() -> None:
        atoll.get(inner.remote())
        print("done")

    atoll.get(outer.remote())
    shown = capsys.readouterr()
    assert re.fullmatch(r"\(inner pid=\d+\) from within\n", shown.err)
    assert re.fullmatch(r"\(outer pid=\d+\) done\n", shown.out)


def test_refs_are_awaitable_and_have_futures() -> None:
    async def both() -> list[int]:
        return await asyncio.gather(add.remote(1), add.remote(2))

    assert asyncio.run(both()) == [2, 3]
    assert add.remote(4).future().result(timeout=PATIENCE_S) == 5


def test_many_threads_get_at_once() -> None:
    results: dict[int, int] = {}

    def work(number: int) -> None:
        for i in range(50):
            results[number] = atoll.get(add.remote(number, i), timeout=PATIENCE_S)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n + 49 for n in range(6)}


def test_interrupting_a_get_leaves_everything_usable(tmp_path: Path) -> None:
    @atoll.remote
    def until_there(path: str) -> int:
        while not Path(path).exists():
            time.sleep(0.01)
        return 1

    ref = until_there.remote(str(tmp_path / "go"))
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])

    def interrupted() -> None:
        timer.start()
        atoll.get(ref, timeout=PATIENCE_S)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    timer.join()
    (tmp_path / "go").touch()
    assert atoll.get(ref, timeout=PATIENCE_S) == 1


def test_modules_beside_the_script_and_closures_travel() -> None:
    factor = 3

    def times(value: int) -> int:
        return value * factor

    assert atoll.get(atoll.remote(times).remote(5)) == 15
    assert atoll.get(atoll.remote(lambda: factor).remote()) == 3


def test_nothing_is_left_in_the_store_when_all_refs_are_gone(session: Session) -> None:
    refs = [atoll.put(np.ones(200_000)) for _ in range(5)]
    views = atoll.get(refs)

    def settles_at(count: int) -> bool:
        until = time.monotonic() + PATIENCE_S
        while len(session.state().objects) != count and time.monotonic() < until:
            time.sleep(0.05)
        return len(session.state().objects) == count

    assert settles_at(5)
    del refs
    assert settles_at(5), "views keep their objects"
    del views
    assert settles_at(0)


def test_what_a_task_leaves_behind_runs_although_its_worker_s_lease_is_over() -> None:
    """It waits for an argument that comes only later, and then it is asked for a worker for it."""

    @atoll.remote(num_cpus=0)
    def comes_later(go: str) -> int:
        while not os.path.exists(go):  # noqa: PTH110
            time.sleep(0.005)
        return 1

    @atoll.remote
    def plus(number: int) -> int:
        return number + 1

    @atoll.remote
    def leaves(refs: list[Any]) -> list[Any]:
        return [plus.remote(refs[0])]

    with tempfile.TemporaryDirectory() as directory:
        go = f"{directory}/go"
        (left,) = atoll.get(leaves.remote([comes_later.remote(go)]), timeout=PATIENCE_S)
        time.sleep(KEEP_IDLE_S + 0.2)  # the lease of the worker that has submitted it is given back
        Path(go).touch()
        assert atoll.get(left, timeout=PATIENCE_S) == 2


def test_bad_arguments_are_refused_in_one_clear_line() -> None:
    ref = add.remote(1)
    attempts: list[tuple[Any, type[Exception], str]] = [
        (lambda: atoll.get(ref, timeout="x"), TypeError, "timeout='x': give seconds as a number, or None"),
        (lambda: atoll.get(ref, timeout=-1), ValueError, "timeout=-1: give seconds from 0, or None"),
        (lambda: atoll.get(ref, timeout=float("nan")), ValueError, "timeout=nan: give seconds from 0, or None"),
        (lambda: atoll.wait([ref], timeout="2"), TypeError, "timeout='2': give seconds as a number, or None"),
        (lambda: atoll.wait([ref], num_returns="2"), TypeError, "num_returns='2': give a whole number from 1 to the 1"),
        (
            lambda: atoll.wait(ref),
            TypeError,
            "wait takes a list of ObjectRefs, not one ObjectRef; write atoll.wait(",
        ),
        (lambda: atoll.get({"a": ref}), ValueError, "not dict; write atoll.get(list(refs.values()))"),
        (lambda: add.remote(1, threading.Lock()), SerializationError, "argument number 2: cannot send a lock"),
        (lambda: add.remote(1, b=threading.Lock()), SerializationError, "argument b: cannot send a lock"),
    ]
    for attempt, kind, text in attempts:
        with pytest.raises(kind, match=re.escape(text)):
            attempt()
    assert atoll.get(ref, timeout=np.float32(PATIENCE_S)) == 2
    assert atoll.wait([ref], num_returns=np.int64(1), timeout=np.int32(PATIENCE_S)) == ([ref], [])

"""`Executor`, where it is more, or other, than what CPython's tests show."""

from __future__ import annotations

import concurrent.futures
import gc
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.util import Executor
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


def test_what_a_call_raises_is_raised_as_it_is_with_the_remote_traceback_as_cause() -> None:
    def fail() -> None:
        raise KeyError("lost")

    with Executor() as executor:
        future = executor.submit(fail)
        with pytest.raises(KeyError, match="lost") as caught:
            future.result(timeout=PATIENCE_S)
    assert type(caught.value) is KeyError
    assert 'raise KeyError("lost")' in str(caught.value.__cause__)
    assert "remote_calls" not in str(caught.value.__cause__)


def test_an_exception_that_does_not_pickle_arrives_as_text() -> None:
    def fail() -> None:
        error = ValueError("holds a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with Executor() as executor, pytest.raises(atoll.exceptions.TaskError, match="holds a lock"):
        executor.submit(fail).result(timeout=PATIENCE_S)


def test_a_worker_that_dies_takes_its_own_call_and_not_the_executor() -> None:
    with Executor() as executor:
        doomed = executor.submit(signal.raise_signal, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool, match="died"):
            doomed.result(timeout=PATIENCE_S)
        assert executor.submit(pow, 2, 3).result(timeout=PATIENCE_S) == 8


def test_a_call_is_not_repeated(tmp_path: Path) -> None:
    def die(path: str) -> None:
        with Path(path).open("a") as file:
            file.write("x")
        signal.raise_signal(signal.SIGKILL)

    with Executor() as executor, pytest.raises(BrokenProcessPool):
        executor.submit(die, str(tmp_path / "calls")).result(timeout=PATIENCE_S)
    assert (tmp_path / "calls").read_text() == "x"


def test_no_more_run_at_once_than_max_workers(tmp_path: Path) -> None:
    def one_at_a_time(path: str) -> bool:
        lock = Path(path)
        lock.touch(exist_ok=False)
        time.sleep(0.01)
        lock.unlink()
        return True

    with Executor(max_workers=1) as executor:
        assert all(executor.map(one_at_a_time, [str(tmp_path / "lock")] * 8))


def test_an_initializer_and_a_function_of_a_notebook_see_the_same_globals() -> None:
    """Both travel by value there, each with globals of its own if they were pickled alone."""
    names: dict[str, Any] = {"__name__": "__main__"}
    source = "def set_it(value):\n    global SETTING\n    SETTING = value\ndef read_it():\n    return SETTING\n"
    source += "def read_it_twice():\n    return SETTING * 2\n"
    exec(compile(source, "<cell>", "exec"), names)
    with Executor(initializer=names["set_it"], initargs=("here",)) as executor:
        assert executor.submit(names["read_it"]).result(timeout=PATIENCE_S) == "here"
        assert executor.submit(names["read_it_twice"]).result(timeout=PATIENCE_S) == "herehere"


def test_refs_among_the_arguments_are_values_in_the_call() -> None:
    with Executor() as executor:
        assert executor.submit(sum, atoll.put([1, 2, 3])).result(timeout=PATIENCE_S) == 6


def test_map_submits_a_bounded_number_of_chunks_of_an_endless_iterable() -> None:
    def numbers() -> Any:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    taken: list[int] = []
    with Executor() as executor:
        results = executor.map(str, numbers(), chunksize=2, buffersize=3)
        assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert len(taken) <= 2 * (3 + 3)
        results.close()  # type: ignore[attr-defined]


def test_what_is_not_asked_for_any_more_is_not_computed(tmp_path: Path) -> None:
    def note(number: int) -> int:
        (tmp_path / str(number)).touch()
        while number and not (tmp_path / "enough").exists():
            time.sleep(0.005)
        return number

    with Executor(max_workers=1) as executor:
        results = executor.map(note, range(50))
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        (tmp_path / "enough").touch()
    assert len(list(tmp_path.iterdir())) < 25


def test_arguments_are_freed_in_the_worker_after_the_call() -> None:
    class Tracked:
        pass

    def look() -> int:
        return sum(type(thing).__name__ == "Tracked" for thing in gc.get_objects())

    with Executor(max_workers=1, num_cpus=2) as executor:
        executor.submit(type, Tracked()).result(timeout=PATIENCE_S)
        assert executor.submit(look).result(timeout=PATIENCE_S) == 0


def test_short_calls_are_queued_ahead_and_all_arrive() -> None:
    with Executor() as executor:
        futures = [executor.submit(pow, number, 2) for number in range(2000)]
        assert [future.result(timeout=PATIENCE_S) for future in futures] == [number**2 for number in range(2000)]


def test_futures_work_with_wait_and_with_threads() -> None:
    with Executor() as executor:
        futures = {executor.submit(pow, 2, n): n for n in range(20)}
        done, rest = concurrent.futures.wait(futures, timeout=PATIENCE_S)
    assert not rest
    assert {futures[future]: future.result() for future in done} == {n: 2**n for n in range(20)}


def _script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=PATIENCE_S)


def test_the_interpreters_exit_waits_for_what_was_submitted() -> None:
    done = _script(
        "import time\nfrom atoll.util import Executor\n"
        "def late():\n    time.sleep(0.2)\n    print('apple')\n"
        "executor = Executor(4)\nexecutor.submit(late)\nexecutor.shutdown(wait=False)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "apple" in done.stdout
    assert not done.stderr


def test_nothing_can_be_submitted_while_the_interpreter_ends() -> None:
    done = _script(
        "import atexit\n"
        "@atexit.register\n"
        "def last():\n"
        "    try:\n        executor.submit(id, None)\n"
        "    except RuntimeError as error:\n        print(error)\n"
        "from atoll.util import Executor\nexecutor = Executor(1)\nexecutor.submit(id, 42).result()\n"
    )
    assert done.returncode == 0, done.stderr
    assert "cannot schedule new futures after" in done.stdout

"""Tasks: attempts after one that failed, workers that die, workers that end after so many calls."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def attempts(tmp_path: Path) -> Any:
    """Count how often a task has begun, across processes; tasks can use it too."""
    directory = str(tmp_path)

    def attempts() -> int:
        """Note one more, and return how many there are."""
        import pathlib
        import uuid

        pathlib.Path(directory, f"attempt-{uuid.uuid4().hex}").touch()
        return len(list(pathlib.Path(directory).glob("attempt-*")))

    return attempts


@pytest.mark.parametrize("death", ["_exit", "SIGKILL"])
def test_a_task_whose_worker_died_runs_again(engine: Any, attempts: Any, death: str) -> None:
    @engine.remote
    def die_once() -> int:
        number = attempts()
        if number == 1:
            os._exit(1) if death == "_exit" else os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert engine.get(die_once.remote(), timeout=50) == 2


def test_a_task_without_retries_is_lost_with_its_worker(engine: Any, attempts: Any) -> None:
    @engine.remote(max_retries=0)
    def die() -> None:
        attempts()
        os._exit(1)

    with pytest.raises(engine.exceptions.WorkerCrashedError):
        engine.get(die.remote(), timeout=50)
    assert attempts() == 2


def test_attempts_end(engine: Any, attempts: Any) -> None:
    @engine.remote(max_retries=2)
    def die() -> None:
        attempts()
        os._exit(1)

    with pytest.raises(engine.exceptions.WorkerCrashedError):
        engine.get(die.remote(), timeout=50)
    assert attempts() == 4


def test_retries_by_options(engine: Any, attempts: Any) -> None:
    @engine.remote(max_retries=0)
    def die_once() -> int:
        number = attempts()
        if number == 1:
            os._exit(1)
        return number

    assert engine.get(die_once.options(max_retries=1).remote(), timeout=50) == 2


def test_retries_without_end(engine: Any, attempts: Any) -> None:
    @engine.remote(max_retries=-1, retry_exceptions=True)
    def fail_often() -> int:
        number = attempts()
        if number < 6:
            raise ValueError(number)
        return number

    assert engine.get(fail_often.remote(), timeout=50) == 6


def test_an_exception_is_not_retried_unless_said(engine: Any, attempts: Any) -> None:
    @engine.remote(max_retries=3)
    def fail() -> None:
        attempts()
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        engine.get(fail.remote())
    assert attempts() == 2


def test_retry_exceptions(engine: Any, attempts: Any) -> None:
    @engine.remote(retry_exceptions=True)
    def fail_once() -> int:
        number = attempts()
        if number == 1:
            raise ValueError("once")
        return number

    assert engine.get(fail_once.remote(), timeout=50) == 2


def test_the_last_exception_is_the_one_raised(engine: Any, attempts: Any) -> None:
    @engine.remote(retry_exceptions=True, max_retries=2)
    def fail() -> None:
        raise ValueError(f"attempt {attempts()}")

    with pytest.raises(ValueError, match="attempt 3"):
        engine.get(fail.remote(), timeout=50)


def test_retry_exceptions_of_some_classes(engine: Any, attempts: Any) -> None:
    @engine.remote(retry_exceptions=[KeyError, OSError], max_retries=5)
    def fail() -> None:
        if attempts() < 3:
            raise FileNotFoundError("a subclass is retried")
        raise ValueError("this is not")

    with pytest.raises(ValueError, match="this is not"):
        engine.get(fail.remote(), timeout=50)
    assert attempts() == 4


def test_retry_exceptions_by_options(engine: Any, attempts: Any) -> None:
    @engine.remote
    def fail_once() -> int:
        number = attempts()
        if number == 1:
            raise KeyError("once")
        return number

    assert engine.get(fail_once.options(retry_exceptions=[KeyError]).remote(), timeout=50) == 2


def test_retry_exceptions_with_no_retries(engine: Any, attempts: Any) -> None:
    @engine.remote(retry_exceptions=True, max_retries=0)
    def fail() -> None:
        raise ValueError(f"attempt {attempts()}")

    with pytest.raises(ValueError, match="attempt 1"):
        engine.get(fail.remote(), timeout=50)


def test_retry_exceptions_of_an_own_class(engine: Any, attempts: Any) -> None:
    class OwnError(Exception):
        pass

    @engine.remote(retry_exceptions=[OwnError])
    def fail_once() -> int:
        number = attempts()
        if number == 1:
            raise OwnError
        return number

    assert engine.get(fail_once.remote(), timeout=50) == 2


@pytest.mark.parametrize("value", [1, "all", [1], [ValueError, "x"]], ids=str)
def test_retry_exceptions_that_make_no_sense(engine: Any, value: Any) -> None:
    def one() -> int:
        return 1

    with pytest.raises((TypeError, ValueError)):
        engine.remote(retry_exceptions=value)(one).remote()


def test_what_waits_for_a_retried_task_gets_its_value(engine: Any, attempts: Any) -> None:
    @engine.remote
    def die_once() -> int:
        number = attempts()
        if number == 1:
            os._exit(1)
        return number

    @engine.remote
    def double(x: int) -> int:
        return 2 * x

    assert engine.get(double.remote(die_once.remote()), timeout=50) == 4


def test_several_returns_of_a_retried_task(engine: Any, attempts: Any) -> None:
    @engine.remote(num_returns=2)
    def die_once() -> Any:
        number = attempts()
        if number == 1:
            os._exit(1)
        return number, -number

    assert engine.get(list(die_once.remote()), timeout=50) == [2, -2]


def test_neighbours_of_a_worker_that_dies_go_on(engine: Any) -> None:
    @engine.remote(max_retries=0)
    def die() -> None:
        os._exit(1)

    @engine.remote
    def one() -> int:
        return 1

    doomed = die.remote()
    others = [one.remote() for _ in range(20)]
    with pytest.raises(engine.exceptions.WorkerCrashedError):
        engine.get(doomed, timeout=50)
    assert engine.get(others, timeout=50) == [1] * 20


def test_sys_exit_ends_the_task_with_an_error(engine: Any) -> None:
    @engine.remote(max_retries=0)
    def leave() -> None:
        sys.exit(3)

    with pytest.raises(engine.exceptions.RayError):
        engine.get(leave.remote(), timeout=50)


def test_a_worker_ends_after_max_calls(engine: Any) -> None:
    @engine.remote(max_calls=1)
    def pid() -> int:
        return os.getpid()

    assert len({engine.get(pid.remote(), timeout=30) for _ in range(3)}) == 3


def test_a_worker_serves_max_calls(engine: Any) -> None:
    @engine.remote(max_calls=2, num_cpus=4)
    def pid() -> int:
        return os.getpid()

    pids = [engine.get(pid.remote(), timeout=30) for _ in range(6)]
    assert all(pids.count(one) <= 2 for one in pids)


def test_results_outlive_a_worker_that_ends_after_max_calls(engine: Any) -> None:
    import numpy as np

    @engine.remote(max_calls=1)
    def make(i: int) -> Any:
        return np.full(100_000, i)

    refs = [make.remote(i) for i in range(3)]
    assert [int(engine.get(ref, timeout=30)[0]) for ref in refs] == [0, 1, 2]


def test_max_calls_cannot_be_changed_by_options(engine: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    with pytest.raises(ValueError, match="max_calls"):
        one.options(max_calls=1).remote()


def test_a_killed_tasks_children_are_retried_by_the_new_attempt(engine: Any, attempts: Any) -> None:
    @engine.remote
    def child() -> int:
        return 5

    @engine.remote
    def parent() -> int:
        ref = child.remote()
        if attempts() == 1:
            os._exit(1)
        return int(engine.get(ref))

    assert engine.get(parent.remote(), timeout=50) == 5

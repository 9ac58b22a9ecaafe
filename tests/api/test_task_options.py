"""What the options of tasks do: retries by exception, calls a worker, cancelling all the way down, warnings."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

import atoll
from atoll.client.session import Session
from atoll.exceptions import GetTimeoutError, TaskCancelledError, WorkerCrashedError
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.usefixtures("session")


class Transient(Exception):
    pass


class Lasting(Exception):
    pass


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A directory in which attempts leave files."""
    return tmp_path


def _attempts(notes: Path) -> int:
    return len(list(notes.iterdir()))


def _note(notes: Path) -> int:
    """Leave a file, and return how many there are."""
    handle, _path = tempfile.mkstemp(dir=notes)
    os.close(handle)
    return _attempts(notes)


# ------------------------------------------------------------------------------------------------------------ retries


@atoll.remote
def fails_twice(notes: Path, kind: type[Exception]) -> int:
    attempt = _note(notes)
    if attempt < 3:
        raise kind(f"attempt {attempt}")
    return attempt


def test_an_exception_is_retried_only_when_asked_for(notes: Path) -> None:
    with pytest.raises(Transient, match="attempt 1"):
        atoll.get(fails_twice.remote(notes, Transient))
    assert _attempts(notes) == 1


@pytest.mark.parametrize("given", [True, [Transient], (KeyError, Transient), [Exception]])
def test_an_exception_of_the_given_classes_is_retried(notes: Path, given: object) -> None:
    assert atoll.get(fails_twice.options(retry_exceptions=given).remote(notes, Transient)) == 3


def test_an_exception_of_another_class_is_not_retried(notes: Path) -> None:
    with pytest.raises(Lasting, match="attempt 1"):
        atoll.get(fails_twice.options(retry_exceptions=[Transient]).remote(notes, Lasting))
    assert _attempts(notes) == 1


def test_the_same_function_may_be_submitted_with_several_lists(notes: Path) -> None:
    assert atoll.get(fails_twice.options(retry_exceptions=[Transient]).remote(notes, Transient)) == 3
    for path in notes.iterdir():
        path.unlink()
    with pytest.raises(Transient):
        atoll.get(fails_twice.options(retry_exceptions=[Lasting]).remote(notes, Transient))
    assert _attempts(notes) == 1


def test_a_class_that_is_defined_locally_can_be_retried(notes: Path) -> None:
    class Local(Exception):
        pass

    @atoll.remote(retry_exceptions=[Local])
    def fails_once() -> int:
        if _note(notes) == 1:
            raise Local
        return _attempts(notes)

    assert atoll.get(fails_once.remote()) == 2


def test_retries_of_exceptions_are_counted(notes: Path) -> None:
    with pytest.raises(Transient, match="attempt 2"):
        atoll.get(fails_twice.options(retry_exceptions=True, max_retries=1).remote(notes, Transient))
    assert _attempts(notes) == 2


# ---------------------------------------------------------------------------------------------------------- max_calls


@atoll.remote(max_calls=1)
def pid_once() -> int:
    return os.getpid()


@atoll.remote(max_calls=3, max_retries=0)
def pid_thrice() -> int:
    return os.getpid()


def test_a_worker_ends_after_the_last_call_of_a_function() -> None:
    pids = [atoll.get(pid_once.remote()) for _ in range(3)]
    assert len(set(pids)) == 3
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_calls_that_are_queued_behind_the_last_are_run_elsewhere_and_once() -> None:
    pids = atoll.get([pid_thrice.remote() for _ in range(30)])
    counts = sorted((pids.count(pid) for pid in set(pids)), reverse=True)
    assert counts[0] == 3
    assert sum(counts) == 30
    assert sum(count < 3 for count in counts) <= 2, "but for the last on each core, a worker has run all that it may"


# ------------------------------------------------------------------------------------------------------------- cancel


@atoll.remote(num_cpus=0)
def notes_its_end(notes: Path) -> str:
    try:
        (notes / "begun").touch()
        threading.Event().wait(60)
    except KeyboardInterrupt:
        (notes / "interrupted").touch()
        raise
    return "done"


@atoll.remote(num_cpus=0)
def waits_for_another(notes: Path) -> str:
    return atoll.get(notes_its_end.remote(notes))


@atoll.remote(num_cpus=0)
def waits_two_down(notes: Path) -> str:
    return atoll.get(waits_for_another.remote(notes))


def test_a_cancelled_task_gets_a_keyboard_interrupt(notes: Path) -> None:
    ref = notes_its_end.remote(notes)
    eventually((notes / "begun").exists)
    atoll.cancel(ref)
    with pytest.raises(TaskCancelledError):
        atoll.get(ref, timeout=PATIENCE_S)
    assert (notes / "interrupted").exists()


class SlowToArrive:
    """An argument whose unpickling says that it has begun, and takes a while."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __setstate__(self, state: dict[str, Path]) -> None:
        (state["notes"] / "arriving").touch()
        time.sleep(0.5)
        self.__dict__.update(state)


@atoll.remote
def waits_for_ever(_argument: SlowToArrive) -> None:
    while True:
        time.sleep(0.01)


def test_a_task_that_is_cancelled_while_its_arguments_arrive_does_not_begin(notes: Path) -> None:
    ref = waits_for_ever.remote(SlowToArrive(notes))
    eventually((notes / "arriving").exists)
    atoll.cancel(ref)
    with pytest.raises(TaskCancelledError):
        atoll.get(ref, timeout=PATIENCE_S)


def test_cancelling_goes_down_to_what_the_task_has_submitted(notes: Path) -> None:
    ref = waits_two_down.remote(notes)
    eventually((notes / "begun").exists)
    atoll.cancel(ref)
    with pytest.raises(TaskCancelledError):
        atoll.get(ref, timeout=PATIENCE_S)
    eventually((notes / "interrupted").exists)


@atoll.remote(num_cpus=0)
def leaves_another(notes: Path) -> list[object]:
    ref = notes_its_end.remote(notes)
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(60)
    return [ref]


def test_without_recursive_what_it_has_submitted_goes_on(notes: Path) -> None:
    ref = leaves_another.remote(notes)
    eventually((notes / "begun").exists)
    atoll.cancel(ref, recursive=False)
    (inner,) = atoll.get(ref, timeout=PATIENCE_S)
    with pytest.raises(GetTimeoutError):
        atoll.get(inner, timeout=0.1)
    assert not (notes / "interrupted").exists()
    atoll.cancel(inner)


def test_force_ends_the_worker(notes: Path) -> None:
    ref = notes_its_end.remote(notes)
    eventually((notes / "begun").exists)
    atoll.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        atoll.get(ref, timeout=PATIENCE_S)
    assert not (notes / "interrupted").exists()


def test_a_task_that_waits_for_its_argument_never_begins_when_cancelled(notes: Path) -> None:
    first = notes_its_end.remote(notes)
    second = notes_its_end.remote(first)
    atoll.cancel(second)
    with pytest.raises(TaskCancelledError):
        atoll.get(second, timeout=PATIENCE_S)
    eventually((notes / "begun").exists)
    atoll.cancel(first)


def test_a_task_that_has_ended_keeps_its_value_when_cancelled() -> None:
    ref = pid_thrice.remote()
    pid = atoll.get(ref)
    atoll.cancel(ref)
    assert atoll.get(ref) == pid


@atoll.remote
class Idler:
    def idle(self) -> None:
        threading.Event().wait(60)


def test_force_is_refused_for_the_call_of_an_actor() -> None:
    idler = Idler.remote()
    ref = idler.idle.remote()
    with pytest.raises(ValueError, match=r"atoll\.kill"):
        atoll.cancel(ref, force=True)
    atoll.kill(idler)


# ----------------------------------------------------------------------------------------------------------- warnings


def test_a_function_that_captures_a_large_value_is_warned_of(session: Session) -> None:
    captured = os.urandom(11_000_000)

    @atoll.remote
    def length() -> int:
        return len(captured)

    with pytest.warns(UserWarning, match=r"length takes 10.49 MiB to send.*atoll\.put") as caught:
        assert atoll.get(length.remote()) == 11_000_000
    assert caught[0].filename == __file__


def test_a_function_that_captures_far_too_much_is_refused() -> None:
    captured = bytes(100 * 1024 * 1024)

    @atoll.remote
    def length() -> int:
        return len(captured)

    with pytest.raises(ValueError, match="the limit is 95 MiB"):
        length.remote()

"""Cancelling: what waits, what runs, with its children and by force."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def spin(engine: Any) -> Any:
    """A task that runs until it is interrupted, and says that it has begun."""

    @engine.remote
    def spin(began: str) -> None:
        Path(began).touch()
        while True:
            time.sleep(0.01)

    return spin


def test_what_runs_is_interrupted(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    ref = spin.remote(str(tmp_path / "began"))
    until_there(str(tmp_path / "began"))
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)


def test_what_waits_for_resources_never_begins(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    whole = spin.options(num_cpus=4)
    running = whole.remote(str(tmp_path / "first"))
    until_there(str(tmp_path / "first"))
    waiting = whole.remote(str(tmp_path / "second"))
    engine.cancel(waiting)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(waiting, timeout=30)
    engine.cancel(running)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(running, timeout=30)
    assert not (tmp_path / "second").exists()


def test_what_waits_for_its_arguments_never_begins(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def after(_value: Any) -> None:
        (tmp_path / "ran").touch()

    first = spin.remote(str(tmp_path / "began"))
    second = after.remote(first)
    until_there(str(tmp_path / "began"))
    engine.cancel(second)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(second, timeout=30)
    engine.cancel(first)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(first, timeout=30)
    assert not (tmp_path / "ran").exists()


def test_what_depends_on_a_cancelled_task_fails(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def after(_value: Any) -> None:
        return None

    first = spin.remote(str(tmp_path / "began"))
    second = after.remote(first)
    until_there(str(tmp_path / "began"))
    engine.cancel(first)
    with pytest.raises((engine.exceptions.TaskCancelledError, engine.exceptions.RayTaskError)):
        engine.get(second, timeout=30)


def test_what_has_ended_keeps_its_value(engine: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    ref = one.remote()
    assert engine.get(ref) == 1
    engine.cancel(ref)
    assert engine.get(ref) == 1


def test_cancelling_twice_is_cancelling_once(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    ref = spin.remote(str(tmp_path / "began"))
    until_there(str(tmp_path / "began"))
    for _ in range(2):
        engine.cancel(ref)
        with pytest.raises(engine.exceptions.TaskCancelledError):
            engine.get(ref, timeout=30)


def test_a_task_is_not_retried_when_it_was_cancelled(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    ref = spin.options(max_retries=3, retry_exceptions=True).remote(str(tmp_path / "began"))
    until_there(str(tmp_path / "began"))
    (tmp_path / "began").unlink()
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    assert not (tmp_path / "began").exists()


def test_a_task_cleans_up(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def tidy() -> None:
        try:
            (tmp_path / "began").touch()
            while True:
                time.sleep(0.01)
        finally:
            (tmp_path / "cleaned").touch()

    ref = tidy.remote()
    until_there(str(tmp_path / "began"))
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    until_there(str(tmp_path / "cleaned"))


def test_a_task_sees_a_keyboard_interrupt(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def watch() -> None:
        try:
            (tmp_path / "began").touch()
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            (tmp_path / "interrupted").touch()
            raise

    ref = watch.remote()
    until_there(str(tmp_path / "began"))
    engine.cancel(ref)
    until_there(str(tmp_path / "interrupted"))
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)


def test_by_force_the_process_ends(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def deaf() -> None:
        (tmp_path / "began").touch()
        while True:
            try:
                time.sleep(0.05)
            except KeyboardInterrupt:
                continue

    ref = deaf.remote()
    until_there(str(tmp_path / "began"))
    engine.cancel(ref, force=True)
    with pytest.raises((engine.exceptions.TaskCancelledError, engine.exceptions.WorkerCrashedError)):
        engine.get(ref, timeout=30)


def test_children_are_cancelled_too(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def child() -> None:
        try:
            (tmp_path / "child").touch()
            while True:
                time.sleep(0.01)
        finally:
            (tmp_path / "child ended").touch()

    @engine.remote
    def parent() -> Any:
        return engine.get(child.remote())

    ref = parent.remote()
    until_there(str(tmp_path / "child"))
    engine.cancel(ref, recursive=True)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    until_there(str(tmp_path / "child ended"))


def test_grandchildren_are_cancelled_too(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def down(depth: int) -> Any:
        if depth:
            return engine.get(down.remote(depth - 1))
        try:
            (tmp_path / "grandchild").touch()
            while True:
                time.sleep(0.01)
        finally:
            (tmp_path / "grandchild ended").touch()

    ref = down.remote(2)
    until_there(str(tmp_path / "grandchild"))
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    until_there(str(tmp_path / "grandchild ended"))


def test_without_recursion_children_go_on(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def child() -> None:
        (tmp_path / "child").touch()
        until_there(str(tmp_path / "go"))
        (tmp_path / "child ended").touch()

    @engine.remote
    def parent() -> Any:
        return engine.get(child.remote())

    ref = parent.remote()
    until_there(str(tmp_path / "child"))
    engine.cancel(ref, recursive=False)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    (tmp_path / "go").touch()
    until_there(str(tmp_path / "child ended"))


def test_only_refs_are_cancelled(engine: Any) -> None:
    with pytest.raises(TypeError):
        engine.cancel(7)


def test_cancelling_what_was_put_does_nothing(engine: Any) -> None:
    ref = engine.put(1)
    engine.cancel(ref)
    assert engine.get(ref) == 1


def test_the_worker_serves_on(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    ref = spin.options(num_cpus=4).remote(str(tmp_path / "began"))
    until_there(str(tmp_path / "began"))
    engine.cancel(ref)

    @engine.remote(num_cpus=4)
    def one() -> int:
        return 1

    assert engine.get(one.remote(), timeout=30) == 1


def test_an_asyncio_actors_call_is_cancelled(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    class Waiter:
        async def wait(self) -> None:
            try:
                (tmp_path / "began").touch()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                (tmp_path / "cancelled").touch()
                raise

        async def one(self) -> int:
            return 1

    waiter = Waiter.remote()
    ref = waiter.wait.remote()
    until_there(str(tmp_path / "began"))
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    assert (tmp_path / "cancelled").exists()
    assert engine.get(waiter.one.remote(), timeout=30) == 1


def test_cancelling_an_actors_waiting_call_disturbs_no_other(engine: Any, until_there: Any, tmp_path: Path) -> None:
    """Whether it is cancelled where it waits, or only when its turn comes, is not said."""

    @engine.remote(max_concurrency=1)
    class Busy:
        async def wait(self) -> str:
            (tmp_path / "began").touch()
            while not (tmp_path / "go").exists():
                await asyncio.sleep(0.01)
            return "waited"

        async def act(self) -> str:
            return "acted"

        async def one(self) -> int:
            return 1

    busy = Busy.remote()
    running = busy.wait.remote()
    until_there(str(tmp_path / "began"))
    waiting = busy.act.remote()
    engine.cancel(waiting)
    (tmp_path / "go").touch()
    assert engine.get(running, timeout=30) == "waited"
    assert engine.get(busy.one.remote(), timeout=30) == 1
    with contextlib.suppress(engine.exceptions.TaskCancelledError):
        assert engine.get(waiting, timeout=30) == "acted"


def test_an_actors_call_is_not_cancelled_by_force(engine: Any) -> None:
    @engine.remote
    class Some:
        def one(self) -> int:
            return 1

    some = Some.remote()
    with pytest.raises(ValueError, match="force"):
        engine.cancel(some.one.remote(), force=True)


def test_what_an_asyncio_actors_call_has_submitted_is_cancelled(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def child() -> None:
        try:
            (tmp_path / "child").touch()
            while True:
                time.sleep(0.01)
        finally:
            (tmp_path / "child ended").touch()

    @engine.remote
    class Parent:
        async def call(self) -> None:
            await child.remote()

    parent = Parent.remote()
    ref = parent.call.remote()
    until_there(str(tmp_path / "child"))
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    until_there(str(tmp_path / "child ended"))


def test_a_cancelled_wait_in_a_task(engine: Any, spin: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    def wait(refs: list[Any]) -> None:
        (tmp_path / "waits").touch()
        engine.wait(refs)

    inner = spin.remote(str(tmp_path / "inner"))
    ref = wait.remote([inner])
    until_there(str(tmp_path / "waits"))
    until_there(str(tmp_path / "inner"))
    engine.cancel(ref)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(ref, timeout=30)
    engine.cancel(inner)
    with pytest.raises(engine.exceptions.TaskCancelledError):
        engine.get(inner, timeout=30)


def test_many_are_cancelled(engine: Any, spin: Any, eventually: Any, tmp_path: Path) -> None:
    marks = [tmp_path / f"began-{i}" for i in range(12)]
    refs = [spin.remote(str(mark)) for mark in marks]
    eventually(lambda: sum(mark.exists() for mark in marks) == 4)
    waiting = [ref for ref, mark in zip(refs, marks, strict=True) if not mark.exists()]
    running = [ref for ref in refs if ref not in waiting]
    for some in (waiting, running):
        for ref in some:
            engine.cancel(ref)
        for ref in some:
            with pytest.raises(engine.exceptions.TaskCancelledError):
                engine.get(ref, timeout=30)
    assert sum(mark.exists() for mark in marks) == 4

"""Actors: names, namespaces, the end, restarts, retries."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def who(engine: Any) -> Any:
    """An actor that says which process it is, and ends it in several ways."""

    @engine.remote
    class Who:
        def __init__(self) -> None:
            self.calls = 0

        def pid(self) -> int:
            self.calls += 1
            return os.getpid()

        def count(self) -> int:
            self.calls += 1
            return self.calls

        def leave(self) -> None:
            exit_actor()

        def die(self) -> None:
            os._exit(1)

        def killed(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    import importlib

    exit_actor = importlib.import_module(f"{engine.__name__}.actor").exit_actor
    return Who


def test_a_named_actor_is_found(engine: Any, who: Any, unique: str) -> None:
    actor = who.options(name=unique).remote()
    found = engine.get_actor(unique)
    assert engine.get(found.pid.remote()) == engine.get(actor.pid.remote())


def test_a_name_that_nobody_has(engine: Any, unique: str) -> None:
    with pytest.raises(ValueError, match=unique):
        engine.get_actor(unique)


def test_get_actor_wants_a_name(engine: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - engines say it in words of their own
        engine.get_actor("")


def test_a_name_is_had_once(engine: Any, who: Any, unique: str) -> None:
    actor = who.options(name=unique).remote()
    with pytest.raises(ValueError, match=unique):
        who.options(name=unique).remote()
    engine.kill(actor)


def test_get_if_exists(engine: Any, who: Any, unique: str) -> None:
    options = {"name": unique, "get_if_exists": True}
    first = who.options(**options).remote()
    second = who.options(**options).remote()
    assert engine.get(first.pid.remote()) == engine.get(second.pid.remote())


def test_get_if_exists_wants_a_name(who: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        who.options(get_if_exists=True).remote()


def test_names_live_in_namespaces(engine: Any, who: Any, unique: str) -> None:
    here = who.options(name=unique).remote()
    there = who.options(name=unique, namespace=f"{unique}-space").remote()
    pids = engine.get([here.pid.remote(), there.pid.remote()])
    assert pids[0] != pids[1]
    assert engine.get(engine.get_actor(unique).pid.remote()) == pids[0]
    assert engine.get(engine.get_actor(unique, namespace=f"{unique}-space").pid.remote()) == pids[1]


def test_a_name_of_another_namespace_is_not_found(engine: Any, who: Any, unique: str) -> None:
    actor = who.options(name=unique, namespace=f"{unique}-space").remote()
    engine.get(actor.pid.remote())
    with pytest.raises(ValueError, match=unique):
        engine.get_actor(unique)


def test_a_named_actor_is_found_from_a_task(engine: Any, who: Any, unique: str) -> None:
    @engine.remote
    def find() -> int:
        return int(engine.get(engine.get_actor(unique).pid.remote()))

    actor = who.options(name=unique).remote()
    assert engine.get(find.remote()) == engine.get(actor.pid.remote())


def test_a_killed_actors_name_is_free(engine: Any, who: Any, unique: str, eventually: Any) -> None:
    actor = who.options(name=unique).remote()
    pid = engine.get(actor.pid.remote())
    engine.kill(actor)

    def free() -> bool:
        try:
            return bool(engine.get(who.options(name=unique).remote().pid.remote()) != pid)
        except ValueError:
            return False

    eventually(free)


def test_a_killed_actor_is_not_found(engine: Any, who: Any, unique: str, eventually: Any) -> None:
    actor = who.options(name=unique).remote()
    engine.get(actor.pid.remote())
    engine.kill(actor)

    def gone() -> bool:
        try:
            engine.get_actor(unique)
        except ValueError:
            return True
        return False

    eventually(gone)


def test_list_named_actors(engine: Any, who: Any, unique: str, part: Any) -> None:
    actor = who.options(name=unique).remote()
    engine.get(actor.pid.remote())
    assert unique in part("util").list_named_actors()
    assert {"name": unique, "namespace": "conformance"} in part("util").list_named_actors(all_namespaces=True)


def test_a_detached_actor_outlives_its_job(engine: Any, script: Any, unique: str) -> None:
    done = script(
        f"""
        engine.init(namespace="conformance")

        @engine.remote
        class Counter:
            value = 0
            def add(self):
                self.value += 1
                return self.value

        counter = Counter.options(name="{unique}", lifetime="detached").remote()
        assert engine.get(counter.add.remote()) == 1
        """
    )
    assert done.returncode == 0, done.stderr
    counter = engine.get_actor(unique)
    assert engine.get(counter.add.remote(), timeout=30) == 2
    engine.kill(counter)


def test_an_anonymous_actor_goes_with_its_job(engine: Any, script: Any, tmp_path: Path, eventually: Any) -> None:
    done = script(
        f"""
        import os, pathlib
        engine.init(namespace="conformance")

        @engine.remote
        class Some:
            def pid(self):
                return os.getpid()

        some = Some.remote()
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(engine.get(some.pid.remote())))
        """
    )
    assert done.returncode == 0, done.stderr
    pid = (tmp_path / "pid").read_text()

    def gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it may end between opening the file and reading it, too
            return True

    eventually(gone)


def test_kill(engine: Any, who: Any) -> None:
    actor = who.remote()
    engine.get(actor.pid.remote())
    engine.kill(actor)
    with pytest.raises(engine.exceptions.ActorDiedError):
        engine.get(actor.pid.remote(), timeout=30)


def test_kill_ends_what_runs_and_what_waits(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    class Busy:
        def wait(self) -> None:
            (tmp_path / "began").touch()
            until_there(str(tmp_path / "never"))

        def one(self) -> int:
            return 1

    busy = Busy.remote()
    refs = [busy.wait.remote(), busy.one.remote()]
    until_there(str(tmp_path / "began"))
    engine.kill(busy)
    for ref in refs:
        with pytest.raises(engine.exceptions.RayActorError):
            engine.get(ref, timeout=30)


def test_only_actors_are_killed(engine: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        engine.kill(engine.put(1))


def test_killing_twice(engine: Any, who: Any) -> None:
    actor = who.remote()
    engine.get(actor.pid.remote())
    engine.kill(actor)
    engine.kill(actor)
    with pytest.raises(engine.exceptions.ActorDiedError):
        engine.get(actor.pid.remote(), timeout=30)


def test_exit_actor(engine: Any, who: Any) -> None:
    actor = who.remote()
    engine.get(actor.pid.remote())
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(actor.leave.remote(), timeout=30)
    with pytest.raises(engine.exceptions.ActorDiedError):
        engine.get(actor.pid.remote(), timeout=30)


def test_exit_actor_does_not_restart(engine: Any, who: Any) -> None:
    actor = who.options(max_restarts=-1, max_task_retries=-1).remote()
    engine.get(actor.pid.remote())
    actor.leave.remote()
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(actor.pid.remote(), timeout=30)


def test_exit_actor_of_an_asyncio_actor(engine: Any, part: Any) -> None:
    exit_actor = part("actor").exit_actor

    @engine.remote
    class Async:
        async def leave(self) -> None:
            exit_actor()

        async def one(self) -> int:
            return 1

    actor = Async.remote()
    assert engine.get(actor.one.remote()) == 1
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(actor.leave.remote(), timeout=30)
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(actor.one.remote(), timeout=30)


def test_exit_actor_outside_of_an_actor(engine: Any, part: Any) -> None:
    exit_actor = part("actor").exit_actor
    with pytest.raises(TypeError):
        exit_actor()


def test_terminate_by_a_call(engine: Any, who: Any) -> None:
    actor = who.remote()
    first = actor.pid.remote()
    actor.__ray_terminate__.remote()
    assert engine.get(first) > 0
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(actor.pid.remote(), timeout=30)


def test_ready_by_a_call(engine: Any, who: Any) -> None:
    assert engine.get(who.remote().__ray_ready__.remote(), timeout=30) is True


@pytest.mark.parametrize("death", ["die", "killed"])
def test_an_actor_whose_process_died(engine: Any, who: Any, death: str) -> None:
    actor = who.remote()
    engine.get(actor.pid.remote())
    with pytest.raises(engine.exceptions.ActorDiedError):
        engine.get(getattr(actor, death).remote(), timeout=30)
    with pytest.raises(engine.exceptions.ActorDiedError):
        engine.get(actor.pid.remote(), timeout=30)


def test_an_actor_restarts(engine: Any, who: Any, eventually: Any) -> None:
    actor = who.options(max_restarts=1, max_task_retries=-1).remote()
    assert engine.get(actor.count.remote()) == 1
    assert engine.get(actor.count.remote()) == 2
    pid = engine.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: engine.get(actor.pid.remote(), timeout=30) != pid)


def test_an_actor_loses_its_state_when_it_restarts(engine: Any, who: Any) -> None:
    actor = who.options(max_restarts=1, max_task_retries=-1).remote()
    assert [engine.get(actor.count.remote()) for _ in range(3)] == [1, 2, 3]
    engine.kill(actor, no_restart=False)
    time.sleep(0.3)
    assert engine.get(actor.count.remote(), timeout=30) <= 2


def test_restarts_end(engine: Any, who: Any, eventually: Any) -> None:
    actor = who.options(max_restarts=1, max_task_retries=3).remote()
    pid = engine.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: engine.get(actor.pid.remote(), timeout=30) != pid)
    os.kill(engine.get(actor.pid.remote()), signal.SIGKILL)

    def dead() -> bool:
        try:
            engine.get(actor.pid.remote(), timeout=30)
        except engine.exceptions.ActorDiedError:
            return True
        except engine.exceptions.ActorUnavailableError:
            return False
        return False

    eventually(dead)


def test_a_call_is_not_made_again_unless_said(engine: Any, tmp_path: Path) -> None:
    @engine.remote(max_restarts=2)
    class Dies:
        def die_once(self) -> int:
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return 1

    actor = Dies.remote()
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(actor.die_once.remote(), timeout=30)


def test_a_call_is_made_again(engine: Any, tmp_path: Path) -> None:
    @engine.remote(max_restarts=2, max_task_retries=2)
    class Dies:
        def die_once(self) -> int:
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return 1

    assert engine.get(Dies.remote().die_once.remote(), timeout=30) == 1


def test_the_retries_of_one_method(engine: Any, tmp_path: Path) -> None:
    @engine.remote(max_restarts=2)
    class Dies:
        @engine.method(max_task_retries=-1)
        def die_once(self) -> int:
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return 1

    assert engine.get(Dies.remote().die_once.remote(), timeout=30) == 1


def test_retry_exceptions_of_a_method(engine: Any) -> None:
    @engine.remote(max_task_retries=3)
    class Fails:
        attempts = 0

        @engine.method(retry_exceptions=[ValueError])
        def fail_twice(self) -> int:
            self.attempts += 1
            if self.attempts < 3:
                raise ValueError(self.attempts)
            return self.attempts

        def fail(self) -> None:
            self.attempts += 1
            raise ValueError(self.attempts)

    fails = Fails.remote()
    assert engine.get(fails.fail_twice.remote(), timeout=30) == 3
    with pytest.raises(ValueError, match="4"):
        engine.get(fails.fail.remote(), timeout=30)


def test_retry_exceptions_of_a_call(engine: Any) -> None:
    @engine.remote(max_task_retries=3)
    class Fails:
        attempts = 0

        def fail_once(self) -> int:
            self.attempts += 1
            if self.attempts == 1:
                raise KeyError("once")
            return self.attempts

    assert engine.get(Fails.remote().fail_once.options(retry_exceptions=True).remote(), timeout=30) == 2


@pytest.mark.parametrize(("classes", "again"), [([KeyError, OSError], True), ([ValueError], False)])
def test_retry_exceptions_of_a_call_by_class(engine: Any, classes: list[type[Exception]], again: bool) -> None:
    @engine.remote(max_task_retries=3)
    class Fails:
        attempts = 0

        def fail_once(self) -> int:
            self.attempts += 1
            if self.attempts == 1:
                raise KeyError("once")
            return self.attempts

    ref = Fails.remote().fail_once.options(retry_exceptions=classes).remote()
    if again:
        assert engine.get(ref, timeout=30) == 2
    else:
        with pytest.raises(KeyError):
            engine.get(ref, timeout=30)


def test_kill_without_no_restart(engine: Any, who: Any, eventually: Any) -> None:
    actor = who.options(max_restarts=1, max_task_retries=-1).remote()
    pid = engine.get(actor.pid.remote())
    engine.kill(actor, no_restart=False)
    eventually(lambda: engine.get(actor.pid.remote(), timeout=30) != pid)


def test_kill_ends_an_actor_that_could_restart(engine: Any, who: Any) -> None:
    actor = who.options(max_restarts=-1).remote()
    engine.get(actor.pid.remote())
    engine.kill(actor)
    with pytest.raises(engine.exceptions.ActorDiedError):
        engine.get(actor.pid.remote(), timeout=30)


def test_a_constructor_that_raises(engine: Any) -> None:
    @engine.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("cannot begin")

        def one(self) -> int:
            return 1

    with pytest.raises(engine.exceptions.ActorDiedError, match="cannot begin"):
        engine.get(Broken.remote().one.remote(), timeout=30)


def test_a_constructors_argument_that_failed(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise KeyError("no argument")

    @engine.remote
    class Some:
        def __init__(self, value: Any) -> None:
            self.value = value

        def one(self) -> int:
            return 1

    with pytest.raises(engine.exceptions.RayError):
        engine.get(Some.remote(fail.remote()).one.remote(), timeout=30)


def test_a_calls_argument_that_failed(engine: Any, who: Any) -> None:
    @engine.remote
    def fail() -> int:
        raise KeyError("no argument")

    @engine.remote
    class Adder:
        def add(self, a: int) -> int:
            return a + 1

    adder = Adder.remote()
    with pytest.raises(KeyError):
        engine.get(adder.add.remote(fail.remote()), timeout=30)
    assert engine.get(adder.add.remote(1)) == 2


def test_the_error_of_a_dead_actor_names_its_class(engine: Any, who: Any) -> None:
    actor = who.remote()
    engine.get(actor.pid.remote())
    engine.kill(actor)
    with pytest.raises(engine.exceptions.ActorDiedError) as caught:
        engine.get(actor.pid.remote(), timeout=30)
    assert "Who" in str(caught.value)


def test_a_dead_actors_earlier_results_stay(engine: Any, who: Any) -> None:
    actor = who.remote()
    ref = actor.count.remote()
    assert engine.get(ref) == 1
    engine.kill(actor)
    assert engine.get(ref) == 1


def test_a_named_actor_that_is_not_detached_goes_with_its_last_handle_or_job(
    engine: Any, script: Any, unique: str, eventually: Any
) -> None:
    done = script(
        f"""
        engine.init(namespace="conformance")

        @engine.remote
        class Some:
            def one(self):
                return 1

        some = Some.options(name="{unique}").remote()
        assert engine.get(some.one.remote()) == 1
        """
    )
    assert done.returncode == 0, done.stderr

    def gone() -> bool:
        try:
            engine.get_actor(unique)
        except ValueError:
            return True
        return False

    eventually(gone)


def test_sys_exit_ends_an_actor(engine: Any) -> None:
    @engine.remote
    class Leaves:
        def leave(self) -> None:
            raise SystemExit(0)

        def one(self) -> int:
            return 1

    leaves = Leaves.remote()
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(leaves.leave.remote(), timeout=30)
    with pytest.raises(engine.exceptions.RayActorError):
        engine.get(leaves.one.remote(), timeout=30)

"""How long actors live: handles, jobs, exits, restarts; and what is asked of them meanwhile. On a real cluster."""

from __future__ import annotations

import os
import pickle
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.actor import exit_actor
from atoll.client.session import Session
from atoll.exceptions import ActorAlreadyExistsError, ActorDiedError, ActorError, PendingCallsLimitExceeded
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


@atoll.remote
class Thing:
    def __init__(self, value: Any = None) -> None:
        self.value = value

    def pid(self) -> int:
        return os.getpid()

    def keep(self, value: Any) -> None:
        self.value = value

    def kept(self) -> Any:
        return self.value

    def wait_for(self, path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.005)
        return "there"

    def make(self, **options: Any) -> Any:
        return Thing.options(**options).remote()

    def leave(self) -> None:
        exit_actor()

    def exit(self, code: int) -> None:
        sys.exit(code)

    def call(self, handle: Any) -> int:
        return int(atoll.get(handle.pid.remote()))

    def about(self) -> dict[str, Any]:
        context = atoll.get_runtime_context()
        return {
            "id": context.get_actor_id(),
            "name": context.get_actor_name(),
            "namespace": context.namespace,
            "again": context.was_current_actor_reconstructed,
            "resources": context.get_assigned_resources(),
            "task": context.get_task_name(),
            "function": context.get_task_function_name(),
            "self": context.current_actor,
        }


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process ends in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def alive(pid: int) -> bool:
    return not gone(pid, 0.2)


# ------------------------------------------------------------------------------------------------------------ handles


def test_an_actor_goes_with_its_last_handle() -> None:
    actor = Thing.remote()
    method = actor.pid
    pid = atoll.get(method.remote())
    del actor
    assert atoll.get(method.remote()) == pid, "a bound method is a handle, too"
    del method
    assert gone(pid)


def test_nothing_is_remembered_of_actors_that_are_gone(session: Session) -> None:
    actors = [Thing.remote(number) for number in range(8)]
    pids = atoll.get([actor.pid.remote() for actor in actors])
    with session.lock:
        assert session.core.statistics().actors == 8
    del actors
    assert all(gone(pid) for pid in pids)
    until = time.monotonic() + PATIENCE_S
    while True:
        with session.lock:
            left = session.core.statistics()
        if (left.actors, left.objects, left.channels) == (0, 0, 0):
            return
        assert time.monotonic() < until, left
        time.sleep(0.02)


def test_pending_calls_end_before_their_actor_goes(tmp_path: Path) -> None:
    path = tmp_path / "go"
    actor = Thing.remote()
    pid = atoll.get(actor.pid.remote())
    first, second = actor.wait_for.remote(str(path)), actor.pid.remote()
    del actor
    assert alive(pid)
    path.touch()
    assert atoll.get([first, second], timeout=PATIENCE_S) == ["there", pid]
    assert gone(pid)
    assert atoll.get(Thing.remote().pid.remote()) != pid, "a handle that nobody keeps lives as long as its call"


def test_handles_elsewhere_count() -> None:
    keeper = Thing.remote()
    actor = Thing.remote()
    pid = atoll.get(actor.pid.remote())
    ref = atoll.put({"inside": [actor]})
    atoll.get(keeper.keep.remote([actor]))
    del actor
    assert alive(pid)
    atoll.get(keeper.keep.remote(None))
    assert alive(pid), "an object contains a handle"
    inner = atoll.get(ref)["inside"][0]
    del ref
    assert atoll.get(inner.pid.remote()) == pid
    del inner
    assert gone(pid)


def test_a_handle_in_a_running_task_counts_and_one_that_it_returns() -> None:
    @atoll.remote
    def use(handles: list[Any]) -> Any:
        time.sleep(0.3)
        atoll.get(handles[0].keep.remote("used"))
        return handles

    actor = Thing.remote()
    pid = atoll.get(actor.pid.remote())
    ref = use.remote([actor])
    del actor
    returned = atoll.get(ref)[0]
    del ref
    assert atoll.get(returned.kept.remote()) == "used"
    assert atoll.get(returned.pid.remote()) == pid
    del returned
    assert gone(pid)


def test_an_actor_that_another_has_made_is_counted_and_goes_with_its_maker() -> None:
    maker = Thing.remote()
    one, other = atoll.get([maker.make.remote(), maker.make.remote()])
    pids = atoll.get([one.pid.remote(), other.pid.remote()])
    del one
    assert gone(pids[0])
    assert alive(pids[1])
    atoll.kill(maker)
    assert gone(pids[1]), "nobody counts its handles any more"
    with pytest.raises(ActorDiedError, match="made it is gone"):
        atoll.get(other.pid.remote(), timeout=PATIENCE_S)


def test_handles_found_by_name_keep_nothing_alive() -> None:
    actor = Thing.options(name="found").remote()
    weak = atoll.get_actor("found")
    pid = atoll.get(weak.pid.remote())
    assert weak == actor
    again = Thing.options(name="found", get_if_exists=True).remote()
    assert atoll.get(again.pid.remote()) == pid
    with pytest.raises(ActorAlreadyExistsError, match="'found' is taken"):
        Thing.options(name="found").remote()
    del actor
    assert gone(pid)
    with pytest.raises(ValueError, match="'found'"):
        atoll.get_actor("found")
    with pytest.raises(ActorDiedError, match="last handle is gone"):
        atoll.get(weak.pid.remote(), timeout=PATIENCE_S)


def test_a_detached_actor_needs_no_handle() -> None:
    pid = atoll.get(Thing.options(name="stays", lifetime="detached").remote("kept").pid.remote())
    assert alive(pid)
    handle = atoll.get_actor("stays")
    child = atoll.get(handle.make.remote())
    child_pid = atoll.get(child.pid.remote())
    atoll.get(handle.keep.remote(child))
    atoll.shutdown()
    handle = atoll.get_actor("stays")
    assert atoll.get(handle.pid.remote()) == pid
    assert alive(child_pid), "what a detached actor has made and keeps stays with it"
    atoll.kill(handle)
    assert gone(pid)
    assert gone(child_pid)


def test_a_handle_that_somebody_else_s_pickle_has_carried_works_and_keeps_nothing_alive() -> None:
    actor = Thing.remote()
    copy = pickle.loads(pickle.dumps(actor))
    pid = atoll.get(copy.pid.remote())
    del actor
    assert gone(pid)


def test_constructor_arguments_live_as_long_as_the_actor_may_begin_anew() -> None:
    value = atoll.put([1, 2, 3])
    actor = Thing.options(max_restarts=1).remote({"ref": value})
    del value
    assert atoll.get(atoll.get(actor.kept.remote())["ref"]) == [1, 2, 3]
    pid = atoll.get(actor.pid.remote())
    atoll.kill(actor, no_restart=False)
    assert gone(pid)
    assert atoll.get(atoll.get(actor.kept.remote(), timeout=PATIENCE_S)["ref"]) == [1, 2, 3]


def test_an_actor_waits_for_its_constructor_s_arguments_without_holding_anybody_up(tmp_path: Path) -> None:
    path = tmp_path / "go"
    first = Thing.remote()
    actor = Thing.remote(first.wait_for.remote(str(path)))
    kept = actor.kept.remote()
    assert atoll.wait([kept], timeout=0.1) == ([], [kept])
    path.touch()
    assert atoll.get(kept, timeout=PATIENCE_S) == "there"

    @atoll.remote
    def fail() -> None:
        raise LookupError("no argument")

    with pytest.raises(LookupError, match="no argument"):
        atoll.get(Thing.remote(fail.remote()).kept.remote(), timeout=PATIENCE_S)


# -------------------------------------------------------------------------------------------------------------- exits


def test_an_actor_ends_itself_for_good() -> None:
    actor = Thing.options(max_restarts=-1).remote()
    pid = atoll.get(actor.pid.remote())
    with pytest.raises(ActorDiedError, match="exit_actor"):
        atoll.get(actor.leave.remote(), timeout=PATIENCE_S)
    assert gone(pid)
    with pytest.raises(ActorDiedError, match="exit_actor"):
        atoll.get(actor.pid.remote(), timeout=PATIENCE_S)
    with pytest.raises(TypeError, match="no actor"):
        exit_actor()


@pytest.mark.parametrize("kind", ["plain", "threads", "coroutines"])
def test_terminate_is_a_call_like_others(kind: str) -> None:
    class Plain:
        def pid(self) -> int:
            return os.getpid()

    class Coroutines(Plain):
        async def nothing(self) -> None: ...

    made = atoll.remote(Coroutines if kind == "coroutines" else Plain)
    actor = made.options(max_concurrency=2 if kind == "threads" else None).remote()
    pid, end = atoll.get(actor.pid.remote()), actor.__ray_terminate__.remote()
    assert gone(pid)
    with pytest.raises(ActorDiedError, match="exit_actor"):
        atoll.get(end, timeout=PATIENCE_S)


def test_an_actor_that_goes_puts_its_things_away(tmp_path: Path) -> None:
    class Tidy:
        def __init__(self, path: str) -> None:
            self.path = path

        def pid(self) -> int:
            return os.getpid()

        def __ray_shutdown__(self) -> None:
            Path(self.path).touch()

    actor = atoll.remote(Tidy).remote(str(tmp_path / "tidy"))
    pid = atoll.get(actor.pid.remote())
    del actor
    assert gone(pid)
    assert (tmp_path / "tidy").exists()


def test_sys_exit_ends_the_process_which_may_begin_anew() -> None:
    mortal = Thing.remote()
    atoll.get(mortal.pid.remote())
    with pytest.raises(ActorDiedError, match="exited with code 3"):
        atoll.get(mortal.exit.remote(3), timeout=PATIENCE_S)
    phoenix = Thing.options(max_restarts=1, max_task_retries=-1).remote()
    atoll.get(phoenix.pid.remote())
    assert not atoll.get(phoenix.about.remote())["again"]
    gone_call = phoenix.exit.options(max_task_retries=0).remote(3)
    with pytest.raises(ActorError):
        atoll.get(gone_call, timeout=PATIENCE_S)
    assert atoll.get(phoenix.about.remote(), timeout=PATIENCE_S)["again"]


# -------------------------------------------------------------------------------------------------- options and asking


def test_calls_beyond_max_pending_calls_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "go"
    actor = Thing.options(max_pending_calls=3).remote()
    refs = [actor.wait_for.remote(str(path)) for _ in range(3)]
    with pytest.raises(PendingCallsLimitExceeded, match="max_pending_calls=3"):
        actor.pid.remote()
    path.touch()
    assert atoll.get(refs, timeout=PATIENCE_S) == ["there"] * 3
    assert atoll.get(actor.pid.remote())


def test_retries_of_what_a_method_raises() -> None:
    @atoll.remote
    class Flaky:
        def __init__(self) -> None:
            self.tries = 0

        def fail_until(self, wanted: int) -> int:
            self.tries += 1
            if self.tries < wanted:
                raise ConnectionError(f"try {self.tries}")
            return self.tries

        @atoll.method(max_task_retries=5, retry_exceptions=[ConnectionError])
        def connect(self, wanted: int) -> int:
            return self.fail_until(wanted)

        @atoll.method(max_task_retries=5, retry_exceptions=[ValueError])
        def parse(self, wanted: int) -> int:
            return self.fail_until(wanted)

    assert atoll.get(Flaky.remote().connect.remote(3)) == 3
    with pytest.raises(ConnectionError, match="try 1"):
        atoll.get(Flaky.remote().parse.remote(3))
    with pytest.raises(ConnectionError, match="try 1"):
        atoll.get(Flaky.remote().fail_until.remote(3))
    again = Flaky.remote()
    assert atoll.get(again.fail_until.options(max_task_retries=2, retry_exceptions=True).remote(3)) == 3
    other = Flaky.remote().parse.options(retry_exceptions=[ConnectionError]).options(name="parsed again")
    assert atoll.get(other.remote(3)) == 3, "the classes of the call, not of the method"


def test_the_runtime_context_of_an_actor() -> None:
    actor = Thing.options(name="asked", num_cpus=0.5).remote()
    about = atoll.get(actor.about.remote())
    assert about.pop("self") == actor
    assert about == {
        "id": actor._actor_id.hex(),
        "name": "asked",
        "namespace": "",
        "again": False,
        "resources": {"CPU": 0.5},
        "task": "Thing.about",
        "function": "Thing.about",
    }
    assert atoll.get(actor.about.options(name="who").remote())["task"] == "who"
    here = atoll.get_runtime_context()
    assert (here.get_actor_id(), here.get_task_id(), here.was_current_actor_reconstructed) == (None, None, False)


def test_namespaces_keep_names_apart_and_reach_into_tasks() -> None:
    atoll.shutdown()
    atoll.init(namespace="room")

    @atoll.remote
    def look() -> tuple[str, int]:
        return atoll.get_runtime_context().namespace, atoll.get(atoll.get_actor("known").pid.remote())

    actor = Thing.options(name="known").remote()
    pid = atoll.get(actor.pid.remote())
    assert atoll.get(look.remote()) == ("room", pid)
    assert atoll.get_actor("known", namespace="room") == actor
    with pytest.raises(ValueError, match="'known'"):
        atoll.get_actor("known", namespace="")
    elsewhere = Thing.options(name="known", namespace="hall").remote()
    assert elsewhere != actor
    assert atoll.get_actor("known", "hall") == elsewhere


def test_what_a_class_has_can_be_called() -> None:
    class Base:
        def inherited(self) -> str:
            return "base"

    class Whole(Base):
        def __init__(self) -> None:
            self._number = 7

        @property
        def number(self) -> int:
            return self._number

        @staticmethod
        def double(value: int) -> int:
            return 2 * value

        @classmethod
        def named(cls) -> str:
            return cls.__name__

        def __call__(self, value: int) -> int:
            return self.number * value

        def __len__(self) -> int:
            return 3

        def _quiet(self, *, needed: int, other: int = 1) -> int:
            return needed + other

    actor = atoll.remote(Whole).remote()
    calls = [actor.inherited.remote(), actor.double.remote(2), actor.named.remote(), actor.__call__.remote(2)]
    assert atoll.get(calls) == ["base", 4, "Whole", 14]
    assert atoll.get([actor.__len__.remote(), actor._quiet.remote(needed=1)]) == [3, 2]
    with pytest.raises(AttributeError, match="number"):
        _ = actor.number
    for wrong in (lambda: actor.double.remote(), lambda: actor.double.remote(1, 2), lambda: actor._quiet.remote(1)):
        with pytest.raises(TypeError, match="argument"):
            wrong()
    weak = pickle.loads(pickle.dumps(actor))
    with pytest.raises(TypeError, match="missing a required argument: 'value'"):
        weak.double.remote()
    with pytest.raises(TypeError, match="no class can be derived"):
        types.new_class("Derived", types.resolve_bases((atoll.remote(Whole),)))

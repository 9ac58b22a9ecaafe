"""Ctrl-C while something is submitted: what was begun and nobody can ask for is let go of."""

from __future__ import annotations

import gc
import linecache
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import atoll
from atoll import actor, remote_function
from atoll.client import requests, store
from atoll.client.session import Session
from atoll.protocol.messages import KillActor
from tests.patience import eventually

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]

Counts = Callable[[CodeType], bool]


def submits(code: CodeType) -> bool:
    return code.co_filename in (actor.__file__, remote_function.__file__)


def creates(code: CodeType) -> bool:
    return code.co_filename in (actor.__file__, requests.__file__) or code.co_name == "hold_actor"


def puts(code: CodeType) -> bool:
    """What runs while somebody waits is left out: Ctrl-C is put off there."""
    if code.co_filename == store.__file__:
        return code.co_name in ("write", "reserve", "hand_over", "_create", "_seal", "give_up")
    return code.co_name in ("put_serialized", "empty")


def interrupted_at(line: int, call: Callable[[], object], counts: Counts) -> bool:
    """Raise KeyboardInterrupt before the so manyth line of a call; False if it has not so many.

    Those are counted that `counts` says; but not `with`, which is traced when it is left, too: there no signal is
    handled.
    """
    seen = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal seen
        if not counts(frame.f_code):
            return None
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        seen += event == "line" and not text.lstrip().startswith("with ")
        if seen == line:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@atoll.remote
def double(number: int) -> int:
    return 2 * number


@atoll.remote(num_returns=2)
def pair(number: int) -> tuple[int, int]:
    return number, -number


@atoll.remote
def count(number: int) -> Iterator[int]:
    yield from range(number)


@atoll.remote
class Counter:
    def add(self, number: int) -> int:
        return number + 1

    def count(self, number: int) -> Iterator[int]:
        yield from range(number)


@pytest.mark.parametrize("kind", ["task", "several", "generator", "call", "generator of an actor"])
def test_an_interrupt_at_any_line_of_a_submission_leaves_nothing(session: Session, kind: str) -> None:
    counter = Counter.remote()
    assert atoll.get(counter.add.remote(1)) == 2
    submit = {
        "task": double.remote,
        "several": pair.remote,
        "generator": count.remote,
        "call": counter.add.remote,
        "generator of an actor": counter.count.remote,
    }[kind]
    submit(3)  # what is done the first time only
    entries = session.core.objects.entries
    eventually(lambda: gc.collect() >= 0 and len(entries) <= 1, "the first results are let go of")
    before = len(entries)  # the actor's own
    line = 1
    while interrupted_at(line, lambda: submit(3), submits):
        line += 1
    assert line > 5, "it was interrupted where it submits"
    eventually(lambda: len(entries) == before, "nothing is left of what was interrupted")
    assert atoll.get(double.remote(4)) == 8


class Thing:
    pass


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "detached": {"lifetime": "detached"},
    "named": {"name": "thing"},
    "named and detached": {"name": "thing", "lifetime": "detached"},
    "named or found": {"name": "thing", "get_if_exists": True},
}


def living(session: Session) -> list[Any]:
    return [each for each in session.state().actors if each.class_name == "Thing" and each.state != "dead"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_any_line_of_a_creation_leaves_no_actor(session: Session, kind: str) -> None:
    make = atoll.remote(num_cpus=0)(Thing).options(**KINDS[kind])
    atoll.kill(make.remote())  # what is done the first time only
    core = session.core
    eventually(lambda: gc.collect() >= 0 and not core.objects.entries and not living(session), "the first one is gone")
    line = 1
    while interrupted_at(line, make.remote, creates):
        line += 1
    assert line > 20, "it was interrupted where it asks"
    whole = 1 if "detached" in kind else 0
    eventually(lambda: len(living(session)) == whole, "no more actors live than were made wholly")
    eventually(lambda: not core.objects.entries, "no token is left")
    for each in living(session):
        session.ask_scheduler(KillActor(session.next_request(), bytes.fromhex(each.actor_id)))
    eventually(lambda: not living(session), "nothing is left for the next test")
    views = core.actors.views
    eventually(lambda: all(view.state == "dead" or view.released for view in views.values()), "nothing is followed")


@pytest.mark.parametrize("kind", ["named", "named and detached"])
def test_an_interrupt_while_the_scheduler_is_asked_leaves_no_actor(session: Session, kind: str) -> None:
    """The request is on its way, and its answer is not: the actor is made, and let go of."""
    make = atoll.remote(num_cpus=0)(Thing).options(**KINDS[kind])
    asked = session._uplinks._requests

    def interrupt() -> None:
        while not asked:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    os.kill(session.cluster.scheduler_pid, signal.SIGSTOP)
    try:
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps the last error, with its frames
            make.remote()
        other.join()
    finally:
        os.kill(session.cluster.scheduler_pid, signal.SIGCONT)
    assert kept.value is not None
    eventually(lambda: not living(session), "what was asked for is let go of")
    handle = make.remote()
    assert [each.actor_id for each in living(session)] == [handle._actor_id.hex()], "its name is free"
    atoll.kill(handle)


def put_empty() -> None:
    array = atoll.empty(SIZE_BYTES, "u1")
    array[:] = 1
    atoll.put(array)


SIZE_BYTES = 2**20


@pytest.mark.parametrize("put", [lambda: atoll.put(np.ones(SIZE_BYTES, "u1")), put_empty], ids=["copied", "in place"])
def test_an_interrupt_at_any_line_of_a_large_put_leaves_no_bytes(session: Session, put: Callable[[], object]) -> None:
    put()
    line = 1
    while interrupted_at(line, put, puts):
        line += 1
    assert line > 30, "it was interrupted where it writes and seals"
    gc.collect()
    session.state()  # views that are gone are told of at the next occasion
    left = session.store._places, session.store._reserved, session.core.objects.entries
    eventually(lambda: not any(left), "nothing is pinned or owned")
    eventually(lambda: not session.state().objects, "no object is in the store")
    eventually(lambda: session.state().nodes[0].store_used_bytes == 0, "nothing is reserved there")

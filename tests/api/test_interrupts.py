"""Ctrl-C while something is submitted: what was begun and nobody can ask for is let go of."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import atoll
from atoll import actor, remote_function
from atoll.client.session import Session
from tests.patience import eventually

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]

FILES = (actor.__file__, remote_function.__file__)


def interrupted_at(line: int, call: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt before the so manyth line of `.remote()`; False if it has not so many."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in FILES:
            return None
        seen += event == "line"
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
    while interrupted_at(line, lambda: submit(3)):
        line += 1
    assert line > 5, "it was interrupted where it submits"
    eventually(lambda: len(entries) == before, "nothing is left of what was interrupted")
    assert atoll.get(double.remote(4)) == 8

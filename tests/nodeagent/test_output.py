"""What a worker writes: in whole lines, each thread's its own."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest

from atoll.nodeagent.output import TaskStream


@pytest.fixture
def emitted() -> list[str]:
    return []


@pytest.fixture
def stream(emitted: list[str]) -> TaskStream:
    return TaskStream("stdout", io.StringIO(), lambda _kind, payload: emitted.append(payload.decode()))


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_lines_are_sent_whole_and_the_rest_when_it_is_flushed(stream: TaskStream, emitted: list[str]) -> None:
    stream.write("one ")
    assert emitted == []
    stream.write("line\n")
    stream.write("and a rest")
    stream.flush()
    stream.flush()
    assert emitted == ["one line\n", "and a rest"]


def test_threads_that_write_at_once_do_not_mix_their_lines(stream: TaskStream, emitted: list[str]) -> None:
    stream.write("mine")
    in_a_thread(lambda: stream.write("theirs\n"))
    stream.write("\n")
    assert emitted == ["theirs\n", "mine\n"]


def test_what_a_thread_leaves_behind_is_sent_by_the_main_thread(stream: TaskStream, emitted: list[str]) -> None:
    in_a_thread(lambda: stream.write("left"))
    in_a_thread(stream.flush)
    assert emitted == [], "another thread leaves it alone"
    stream.flush()
    assert emitted == ["left"]

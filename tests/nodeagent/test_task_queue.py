"""What waits in a worker, and what others take out of it while the main thread goes on taking from the left."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

from atoll.nodeagent.task_queue import OWN, TaskQueue
from atoll.protocol.channel_messages import CallMethod, RunTask
from atoll.protocol.machine import Peer

ME, OTHER = Peer(5), Peer(6)


def task(sequence: int) -> RunTask:
    return RunTask(sequence, b"", b"", b"")


def call(sequence: int) -> CallMethod:
    return CallMethod(sequence, b"", "add", b"")


class Busy(deque[tuple[Peer, Any]]):
    """A queue whose main thread takes an item whenever somebody takes one on the right."""

    def __init__(self, items: list[tuple[Peer, Any]]) -> None:
        super().__init__(items)
        self.run: list[int] = []

    def pop(self) -> tuple[Peer, Any]:  # type: ignore[override]
        item = super().pop()
        if self:
            self.run.append(self.popleft()[1].sequence)
        return item


def queue_of(*items: tuple[Peer, Any]) -> TaskQueue:
    queue = TaskQueue()
    queue.items.extend(items)
    return queue


def left(queue: TaskQueue) -> list[int]:
    return [message.sequence for _peer, message in queue.items]


def test_what_is_cancelled_does_not_wait_any_more_and_what_runs_is_not_found() -> None:
    queue = queue_of((ME, task(1)), (OTHER, task(2)), (ME, call(2)))
    assert queue.remove(ME, 2)
    assert left(queue) == [1, 2]
    assert not queue.remove(ME, 2)
    assert not queue.remove(OTHER, 1)


def test_the_last_tasks_are_taken_back_first_and_calls_stay_in_order() -> None:
    queue = queue_of((ME, task(1)), (ME, call(2)), (OTHER, task(3)), (ME, task(4)), (ME, call(5)), (ME, task(6)))
    assert queue.take_back(ME, 2) == [6, 4]
    assert left(queue) == [1, 2, 3, 5]
    assert queue.take_back(ME, 9) == [1]
    assert queue.callers() == [OTHER]


def test_a_lost_callers_items_go_and_the_workers_own_stay() -> None:
    queue = queue_of((ME, call(1)), (OTHER, call(2)), (ME, call(3)))
    done: list[int] = []
    queue.add_own(lambda: done.append(1))
    queue.drop(ME)
    assert [peer for peer, _message in queue.items] == [OTHER, OWN]
    queue.items[-1][1]()
    assert done == [1]


@pytest.mark.parametrize("lost", [True, False])
def test_calls_keep_their_order_while_the_main_thread_takes_them(lost: bool) -> None:
    """Two calls of one caller to an actor, with another's between: the first never runs after the second."""
    queue = TaskQueue()
    queue.items = busy = Busy([(ME, call(1)), (OTHER, task(2)), (ME, call(3)), (ME, call(4))])
    if lost:
        queue.drop(OTHER)
    else:
        queue.take_back(OTHER, 1)
    assert [number for number in busy.run + left(queue) if number != 2] == [1, 3, 4]


def test_nothing_is_lost_or_run_after_it_was_taken_out_while_another_thread_takes() -> None:
    queue = queue_of(*((ME, task(number)) for number in range(5_000)))
    run: list[int] = []

    def main_thread() -> None:
        while queue.items:
            try:
                run.append(queue.items.popleft()[1].sequence)
            except IndexError:
                return

    thread = threading.Thread(target=main_thread)
    thread.start()
    out = [number for number in range(4_900, 4_800, -1) if queue.remove(ME, number)]
    out += queue.take_back(ME, 100)
    queue.callers()
    thread.join()
    assert sorted(run + out) == list(range(5_000))
    assert run == sorted(run)

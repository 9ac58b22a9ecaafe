"""A queue between processes."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

import atoll
from atoll.util.queue import Empty, Full, Queue
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]


@pytest.fixture
def three(session: Any) -> Iterator[Queue]:
    made = Queue(maxsize=3)
    yield made
    made.shutdown(force=True)


def test_items_come_out_in_the_order_in_which_they_went_in(three: Queue) -> None:
    for item in ("a", None, {"b": 1}):
        three.put(item)
    assert (three.qsize(), three.size(), len(three), three.full(), three.empty()) == (3, 3, 3, True, False)
    assert [three.get(), three.get(), three.get()] == ["a", None, {"b": 1}]
    assert three.empty()


def test_who_does_not_wait_is_told(three: Queue) -> None:
    with pytest.raises(Empty):
        three.get_nowait()
    with pytest.raises(queue.Empty):
        three.get(timeout=0.05)
    three.put_nowait_batch(range(3))
    with pytest.raises(Full):
        three.put_nowait(4)
    with pytest.raises(queue.Full):
        three.put(4, timeout=0.05)
    with pytest.raises(ValueError, match="non-negative"):
        three.get(timeout=-1)


def test_batches_go_wholly_or_not_at_all(three: Queue) -> None:
    three.put_nowait_batch([1, 2])
    with pytest.raises(Full):
        three.put_nowait_batch([3, 4])
    with pytest.raises(Empty):
        three.get_nowait_batch(3)
    assert three.get_nowait_batch(2) == [1, 2]
    with pytest.raises(TypeError):
        three.put_nowait_batch(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        three.get_nowait_batch("2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_items"):
        three.get_nowait_batch(-1)


def test_a_waiting_get_is_served_by_a_later_put_from_a_task(three: Queue) -> None:
    @atoll.remote(num_cpus=0)
    def put_later(target: Queue, item: str) -> None:
        time.sleep(0.05)
        target.put(item)

    ref = put_later.remote(three, "from a task")
    assert three.get(timeout=PATIENCE_S) == "from a task"
    atoll.get(ref)


def test_a_waiting_put_is_served_by_a_later_get(three: Queue) -> None:
    @atoll.remote(num_cpus=0)
    def produce(target: Queue) -> str:
        for number in range(6):
            target.put(number)
        return "all are in"

    ref = produce.remote(three)
    assert [three.get(timeout=PATIENCE_S) for _ in range(6)] == list(range(6))
    assert atoll.get(ref, timeout=PATIENCE_S) == "all are in"


def test_coroutines_wait_side_by_side(three: Queue) -> None:
    async def work() -> list[Any]:
        gets = [asyncio.create_task(three.get_async(timeout=PATIENCE_S)) for _ in range(4)]
        for number in range(4):
            await three.put_async(number)
        with pytest.raises(Empty):
            await three.get_async(block=False)
        return sorted(await asyncio.gather(*gets))

    assert asyncio.run(work()) == [0, 1, 2, 3]


def test_a_queue_that_was_shut_down_says_so() -> None:
    made = Queue(actor_options={"name": "a-queue", "num_cpus": 0})
    made.put(1)
    assert atoll.get_actor("a-queue") == made.actor
    made.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        made.put(2)
    with pytest.raises(ValueError, match="a-queue"):
        atoll.get_actor("a-queue")

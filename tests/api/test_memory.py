"""Claim R13 with real processes: only the offender dies, it hears why, and oversubscribed tasks finish by retry."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll import exceptions
from atoll.client import daemons, launch
from tests.patience import PATIENCE_S

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A cluster whose host has 1200 MiB, of which 128 are kept free."""
    directory = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(daemons.MODULES, daemons.AGENT, "tests.api.small_host")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("ATOLL_RUNTIME_DIR", str(directory))
        patch.setenv("ATOLL_NUM_CPUS", "4")
        patch.setenv("ATOLL_MEMORY_BYTES", "1G")
        patch.setenv("ATOLL_STORE_CAPACITY_BYTES", "64M")
        patch.setenv("ATOLL_STORE_PREPARED_BYTES", "0")
        running = launch.start_cluster(linger_s=None, started_by="tests")
        try:
            yield directory
        finally:
            atoll.shutdown()
            launch.stop_cluster(running)


@pytest.fixture(autouse=True)
def session(cluster: Path) -> Iterator[None]:
    atoll.init()
    yield
    atoll.shutdown()


def fill(size_mib: int, hold_s: float) -> int:
    """Touch so much memory, slowly enough to be seen, and keep it."""
    held = []
    for _step in range(size_mib // 20):
        held.append(b"x" * (20 * MIB))
        time.sleep(0.008)
    time.sleep(hold_s)
    return len(held)


def given(size_mib: int) -> float:
    """Touch so much memory, and return how much of it was set aside for this task, in MiB."""
    fill(size_mib, 0.3)
    return atoll.get_runtime_context().get_assigned_resources()["memory"] / MIB


def eventually_given(task: Any, size_mib: int, below_mib: float) -> bool:
    """Whether less is set aside for a task soon: what was learned of it arrives a moment after it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if atoll.get(task.remote(size_mib), timeout=PATIENCE_S) < below_mib:
            return True
        time.sleep(0.7)  # until its lease has been returned: the next one may be of another size
    return False


def test_as_much_as_it_has_needed_is_set_aside() -> None:
    task = atoll.remote(given).options(memory="auto")
    assert atoll.get(task.remote(20), timeout=PATIENCE_S) == 256, "a quarter of the node, as a CPU is"
    time.sleep(0.7)
    assert eventually_given(task, 20, 250)


def test_what_was_set_aside_for_it_was_too_little_and_it_is_run_again_with_more() -> None:
    task = atoll.remote(given).options(memory="auto", name="large")
    assert atoll.get(task.remote(400), timeout=PATIENCE_S) >= 400


def test_r13_only_the_offender_dies_and_it_is_told_what_to_ask_for() -> None:
    task = atoll.remote(fill)
    neighbour = task.options(memory="300M").remote(100, 1.0)
    offender = task.options(memory="200M").remote(400, 5.0)
    with pytest.raises(exceptions.OutOfMemoryError) as caught:
        atoll.get(offender, timeout=PATIENCE_S)
    error = caught.value
    assert "it asked for 200 MiB. Ask for more: memory=" in str(error)
    assert str(error).startswith("fill: its process used ")
    assert 200 * MIB < error.used_bytes < 450 * MIB
    assert error.asked_bytes == 200 * MIB
    assert error.advised_bytes >= 400 * MIB
    assert atoll.get(neighbour, timeout=PATIENCE_S) == 5


def test_r13_what_it_has_started_counts_too() -> None:
    @atoll.remote(memory=200 * MIB, max_retries=0)
    def with_child() -> None:
        pid = os.fork()
        if pid == 0:
            fill(400, 10.0)
            os._exit(0)
        os.waitpid(pid, 0)

    with pytest.raises(exceptions.OutOfMemoryError, match="asked for 200 MiB"):
        atoll.get(with_child.remote(), timeout=PATIENCE_S)


def test_r13_objects_in_the_store_are_not_its_own() -> None:
    import numpy as np

    block = atoll.put(np.ones(6 * MIB))  # 48 MiB

    @atoll.remote(memory="32M")
    def total(values: np.ndarray) -> float:
        result = float(values.sum())
        time.sleep(0.3)
        return result

    assert atoll.get(total.remote(block), timeout=PATIENCE_S) == 6 * MIB


def test_r13_an_actor_dies_of_what_it_keeps_and_its_callers_hear_why() -> None:
    @atoll.remote(memory="200M")
    class Hoard:
        def __init__(self) -> None:
            self.kept: list[bytes] = []

        def take(self, size_mib: int) -> None:
            self.kept.append(b"x" * (size_mib * MIB))

        def wait(self) -> None:
            time.sleep(10.0)

    hoard = Hoard.remote()
    atoll.get(hoard.take.remote(100), timeout=PATIENCE_S)
    hoard.take.remote(300)
    with pytest.raises(exceptions.ActorDiedError, match=r'OutOfMemoryError.*Ask for more: memory="'):
        atoll.get(hoard.wait.remote(), timeout=PATIENCE_S)


def test_r13_oversubscribed_tasks_finish_by_retry() -> None:
    task = atoll.remote(fill)
    began = [task.remote(400, 0.2) for _number in range(4)]
    assert atoll.get(began, timeout=60) == [20] * 4

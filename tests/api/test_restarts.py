"""Daemons that die and come back, on a real cluster of the test's own (claims R4, R5, R6)."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll
from atoll.client.supervisor import Supervisor
from tests.nodeagent.running import is_alive
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.processes


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A cluster whose dead daemons are started again when it is asked to look."""
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as directory:
        monkeypatch.setenv("ATOLL_RUNTIME_DIR", directory)
        monkeypatch.setenv("ATOLL_NUM_CPUS", "2")
        monkeypatch.setenv("ATOLL_STORE_CAPACITY_BYTES", "64M")
        made = Supervisor(started_by="tests")
        made.start()
        yield made
        atoll.shutdown()
        made.stop()
        assert not [path for path in Path(directory).rglob("*") if path.suffix != ".lock"]


@atoll.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> int:
        self.value += 1
        return self.value

    def pid(self) -> int:
        return os.getpid()


@atoll.remote
def until_there(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return "there"


@atoll.remote
def large(number: int) -> bytes:
    return bytes([number]) * 200_000


@atoll.remote
def first_byte(value: bytes) -> int:
    return value[0]


def test_r5_a_restarted_scheduler_finds_actors_tasks_and_names_as_they_were(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    counter = Counter.options(name="tally").remote()
    assert atoll.get(counter.add.remote()) == 1
    atoll.cache["answer"] = 42
    go = tmp_path / "go"
    running = until_there.remote(str(go))
    time.sleep(0.3)
    assert supervisor.cluster is not None
    os.kill(supervisor.cluster.scheduler_pid, signal.SIGKILL)
    assert atoll.get(counter.add.remote(), timeout=PATIENCE_S) == 2, "direct channels carry on without a scheduler"
    _wait_for_restart(supervisor)
    go.touch()
    assert atoll.get(running, timeout=PATIENCE_S) == "there"
    assert atoll.cache["answer"] == 42
    found = atoll.get_actor("tally")
    assert atoll.get(found.add.remote(), timeout=PATIENCE_S) == 3
    go.unlink()
    again = until_there.remote(str(tmp_path))
    assert atoll.get(again, timeout=PATIENCE_S) == "there"


def test_r4_an_agent_that_dies_takes_its_workers_along_and_a_new_one_serves(supervisor: Supervisor) -> None:
    counter = Counter.remote()
    pid = atoll.get(counter.pid.remote())
    assert supervisor.cluster is not None
    os.kill(supervisor.cluster.agent_pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid), "the actor's process has ended")
    _wait_for_restart(supervisor)
    assert atoll.get(until_there.remote("/"), timeout=PATIENCE_S) == "there"
    with pytest.raises(atoll.exceptions.ActorError):
        atoll.get(counter.add.remote(), timeout=PATIENCE_S)


def test_r4_what_is_read_after_an_agent_was_replaced_is_not_what_lay_there_before(supervisor: Supervisor) -> None:
    before = [atoll.put(bytes([number]) * 200_000) for number in range(3)]
    seen = atoll.get(before[0])
    assert supervisor.cluster is not None
    os.kill(supervisor.cluster.agent_pid, signal.SIGKILL)
    _wait_for_restart(supervisor)
    atoll.get(until_there.remote("/"), timeout=PATIENCE_S)
    after = [atoll.get(large.remote(number), timeout=PATIENCE_S) for number in range(100, 103)]
    put = [atoll.put(bytes([number]) * 200_000) for number in range(200, 203)]
    assert [value[0] for value in after] == [100, 101, 102]
    assert atoll.get([first_byte.remote(ref) for ref in put], timeout=PATIENCE_S) == [200, 201, 202]
    assert seen == bytes(200_000), "what was read before stays as it was"


def _wait_for_restart(supervisor: Supervisor) -> None:
    eventually(supervisor.check, "the dead daemon is found")

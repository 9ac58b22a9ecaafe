"""Daemons that die and come back, on a real cluster of the test's own (claims R4, R5, R6)."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import atoll
from atoll.client import uplinks
from atoll.client.launch import find_cluster, stop_cluster
from atoll.client.supervisor import Supervisor
from atoll.protocol.cluster_file import ClusterFile
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


@pytest.fixture
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterFile]:
    """A cluster that this process has started, which nobody else looks after."""
    monkeypatch.setattr(uplinks, "AWAY_S", 0.2)
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as directory:
        monkeypatch.setenv("ATOLL_RUNTIME_DIR", directory)
        monkeypatch.setenv("ATOLL_NUM_CPUS", "2")
        monkeypatch.setenv("ATOLL_STORE_CAPACITY_BYTES", "64M")
        yield atoll.init().cluster
        atoll.shutdown()
        left = find_cluster()
        if left is not None:
            stop_cluster(left)
        # It may be ending by itself at this moment, since it was started for this process.
        eventually(lambda: all(path.suffix == ".lock" for path in Path(directory).rglob("*")), "nothing is left")


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


@pytest.mark.parametrize("dead", ["scheduler", "agent"])
def test_r5_a_session_starts_a_daemon_again_that_nobody_else_looks_after(own_cluster: ClusterFile, dead: str) -> None:
    assert atoll.get(until_there.remote("/")) == "there"
    os.kill(own_cluster.scheduler_pid if dead == "scheduler" else own_cluster.agent_pid, signal.SIGKILL)
    # A lease of another shape, which only a scheduler can give.
    again = until_there.options(max_retries=-1, num_cpus=0.5).remote("/")
    assert atoll.get(again, timeout=PATIENCE_S) == "there"
    now = find_cluster()
    assert now is not None
    assert now.cluster_id == own_cluster.cluster_id


def test_a_cluster_that_was_stopped_is_told_to_who_waits_and_the_next_call_has_another(
    own_cluster: ClusterFile, tmp_path: Path
) -> None:
    counter = Counter.options(name="tally", lifetime="detached").remote()
    assert atoll.get(counter.add.remote()) == 1
    never = until_there.remote(str(tmp_path / "never"))
    future = never.future()
    stop_cluster(own_cluster)
    with pytest.raises(atoll.exceptions.ClusterLostError, match="was stopped, and what it held is gone"):
        atoll.get(never, timeout=PATIENCE_S)
    with pytest.raises(atoll.exceptions.ClusterLostError, match="was stopped"):
        future.result(timeout=PATIENCE_S)
    assert atoll.get(until_there.remote("/"), timeout=PATIENCE_S) == "there"
    with pytest.raises(ValueError, match="no actor has the name 'tally'"):
        atoll.get_actor("tally")
    with pytest.raises(atoll.exceptions.ClusterLostError, match="of a session that has ended"):
        until_there.remote(never)


def test_a_question_to_a_cluster_that_was_stopped_says_so(own_cluster: ClusterFile) -> None:
    session = atoll.init()
    stop_cluster(own_cluster)
    with pytest.raises(atoll.exceptions.ClusterLostError, match="was stopped, and what it held is gone"):
        session.state()


def test_of_a_cluster_whose_daemons_are_all_dead_nothing_is_left(own_cluster: ClusterFile, tmp_path: Path) -> None:
    never = until_there.remote(str(tmp_path / "never"))
    for pid in (own_cluster.scheduler_pid, own_cluster.agent_pid):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(atoll.exceptions.ClusterLostError, match="daemons have died, and with them what it held"):
        atoll.get(never, timeout=PATIENCE_S)


def _mapped() -> set[str]:
    """Return the segments of shared memory that this process has mapped, by their inodes."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "/memfd:atoll" in line}


def test_r4_the_memory_of_an_agent_that_is_gone_is_let_go_when_nothing_here_looks_at_it(
    supervisor: Supervisor,
) -> None:
    of_others = _mapped()  # what tests before this one look at still
    refs = [atoll.put(np.full(40_000 << number, number)) for number in range(5)]
    seen = atoll.get(refs[4])
    old = _mapped() - of_others
    assert len(old) >= 3
    del refs
    assert supervisor.cluster is not None
    os.kill(supervisor.cluster.agent_pid, signal.SIGKILL)
    _wait_for_restart(supervisor)
    atoll.get(until_there.remote("/"), timeout=15)
    eventually(lambda: len(old & _mapped()) == 1, "only what is looked at is mapped")
    assert seen.sum() == 4 * (40_000 << 4)
    del seen
    atoll.get(until_there.remote("/"), timeout=15)
    eventually(lambda: not old & _mapped(), "nothing is mapped any more")


def _wait_for_restart(supervisor: Supervisor) -> None:
    eventually(supervisor.check, "the dead daemon is found")

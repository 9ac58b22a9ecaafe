"""Locks of devices: what they hold off, and with real agents and workers that no device has two holders (claim R15)."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.exceptions import InsecureDirectoryError
from atoll.nodeagent.device_locks import DeviceLocks, open_locks
from atoll.nodeagent.processes import children
from atoll.protocol.messages import DEVICES_TAKEN, EndLease, LeaseEnded, LeaseFailed, LeaseStarted
from atoll.protocol.values import DeviceShare
from tests.nodeagent.running import RunningAgent, is_alive
from tests.patience import eventually

Start = Callable[..., RunningAgent]
ENOUGH, WITHIN_S = 12, 60.0


def test_one_of_two_has_a_device_and_the_other_is_told_who(tmp_path: Path) -> None:
    first, second = DeviceLocks(tmp_path / "locks"), DeviceLocks(tmp_path / "locks")
    assert first.take(["GPU-1", "GPU-0"]) == {}
    assert first.take(["GPU-0"]) == {}, "all leases of one agent share its lock"
    assert first.held_elsewhere("GPU-0") == ""
    said = f"held by another cluster of yours (its node agent is process {os.getpid()})"
    assert second.take(["GPU-2", "GPU-1"]) == {"GPU-1": said}
    assert (second.held_elsewhere("GPU-0"), second.held_elsewhere("GPU-2")) == (said, "")
    assert first.take(["GPU-2"]) == {}, "the second has kept nothing of what it did not get whole"
    first.close()
    assert second.take(["GPU-0", "GPU-1", "GPU-2"]) == {}
    second.close()


def test_a_process_that_inherited_a_lock_has_it_until_it_ends(tmp_path: Path) -> None:
    first, second = DeviceLocks(tmp_path / "locks"), DeviceLocks(tmp_path / "locks")
    first.take(["GPU-0"])
    script = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, pass_fds=first.descriptors(["GPU-0"])):
        first.close()
        (tmp_path / "locks" / "GPU-0.lock").write_text("999999999")  # an agent that is no more
        assert second.take(["GPU-0"]) == {"GPU-0": "held by a worker whose node agent has ended"}
        assert first.take(["GPU-0"]) != {}, "who has let go is as good as anybody"
    assert second.take(["GPU-0"]) == {}
    second.close()


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    locks, path = DeviceLocks(tmp_path / "locks"), tmp_path / "locks" / "GPU-0.lock"
    lock, removed = fcntl.flock, []

    def remove_first(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(path.unlink())
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    assert locks.take(["GPU-0"]) == {}
    assert os.fstat(locks.descriptors(["GPU-0"])[0]).st_ino == path.stat().st_ino
    locks.close()


@pytest.mark.parametrize("planted", ["link", "open", "file"])
def test_s9_a_place_for_locks_that_is_not_ours_alone_is_refused(tmp_path: Path, planted: str) -> None:
    place = tmp_path / "locks"
    if planted == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    elif planted == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        place.write_text("")
    with pytest.raises(InsecureDirectoryError):
        DeviceLocks(place)


def test_s9_a_planted_lock_refuses_its_device_and_no_other(tmp_path: Path) -> None:
    locks = DeviceLocks(tmp_path / "locks")
    (tmp_path / "locks" / "GPU-0.lock").symlink_to(tmp_path / "elsewhere")
    (refusal,) = locks.take(["GPU-0"]).values()
    assert "not to be locked" in refusal
    assert "symbolic link" in refusal
    assert not (tmp_path / "elsewhere").exists()
    assert locks.take(["GPU-1"]) == {}
    locks.close()


def test_simulated_devices_are_locked_in_their_cluster_and_real_ones_for_all_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: type("Entry", (), {"pw_dir": str(home)}))
    session = tmp_path / "session"
    session.mkdir(mode=0o700)
    open_locks(None, session, simulated=True)
    assert (session / "atoll-devices").is_dir()
    for number in range(2):
        monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(tmp_path / str(number)))
        open_locks(None, session, simulated=False)
    assert [path.name for path in home.rglob("atoll-*")] == ["atoll-devices"]


# ------------------------------------------------------------------------------------------- with real processes


def share(index: int) -> DeviceShare:
    return DeviceShare(f"SIM-GPU-{index:08d}", index, 10_000, simulated=True)


@pytest.fixture
def shared(socket_directory: Path) -> dict[str, str]:
    """What makes two agents have the same devices, as two clusters of one user on a host have."""
    locks = socket_directory / "locks"
    locks.mkdir(mode=0o700)
    return {"ATOLL_SIMULATED_GPUS": "2", "ATOLL_DEVICE_LOCKS": str(locks)}


@pytest.mark.processes
def test_r15_a_process_that_outlives_its_worker_and_its_agent_keeps_the_device(
    start_agent: Start, shared: dict[str, str], tmp_path: Path
) -> None:
    first = start_agent(**shared)
    first.define()
    first.lease(f"leave-child {tmp_path}", devices=[share(0)])
    eventually((tmp_path / "child").exists, "the child")
    child = int((tmp_path / "child").read_text())
    try:
        first.process.send_signal(signal.SIGSTOP)  # so that it does not see its zygote end, and clean up
        for pid in [*children(first.process.pid), first.process.pid]:
            os.kill(pid, signal.SIGKILL)
        first.process.wait()
        assert is_alive(child), "nobody is left to end it"
        second = start_agent(**shared)
        second.define()
        lease_id = second.start_lease(devices=[share(0)])
        other = second.lease(devices=[share(1)])
        assert is_alive(other.pid), "the other device is free"
        assert second.scheduler.arrived(0.5) == [], "the first is not"
    finally:
        (tmp_path / "end").touch()
        eventually(lambda: not is_alive(child), "the child has ended")
    second.scheduler.expect(LeaseStarted, lease_id=lease_id)


@pytest.mark.processes
def test_a_child_that_hides_does_not_keep_the_device_when_its_worker_ends(
    start_agent: Start, shared: dict[str, str], tmp_path: Path
) -> None:
    agent = start_agent(**shared)
    agent.define()
    started = agent.lease(f"leave-child {tmp_path}", devices=[share(0)])
    eventually((tmp_path / "child").exists, "the child")
    agent.scheduler.send(EndLease(started.lease_id, kill=True))
    agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id)
    locks = DeviceLocks(Path(shared["ATOLL_DEVICE_LOCKS"]))
    eventually(lambda: locks.take([share(0).uuid]) == {}, "another cluster gets the device")
    locks.close()


@pytest.mark.processes
def test_a_worker_that_dies_lets_go_of_the_lock_after_everything_else(
    start_agent: Start, shared: dict[str, str], tmp_path: Path
) -> None:
    """What it has opened for the device is closed first: from the lowest descriptor up, one after the other."""
    agent = start_agent(**shared)
    agent.define()
    started = agent.lease(f"witness {tmp_path}", devices=[share(0)])
    name = f"{share(0).uuid}.witness"

    def opened() -> dict[str, int]:
        return {path.readlink().name: int(path.name) for path in Path(f"/proc/{started.pid}/fd").iterdir()}

    eventually(lambda: name in opened(), "the worker uses its device")
    descriptors = opened()
    assert max(descriptors, key=lambda each: descriptors[each]) == f"{share(0).uuid}.lock", descriptors
    assert descriptors[f"{share(0).uuid}.lock"] > 1000, "nor will it open more than that before it ends"


class Cluster:
    """One of two clusters that want the same devices: what its scheduler knows."""

    def __init__(self, start: Start, variables: dict[str, str]) -> None:
        self._start, self._variables = start, variables
        self.restart()

    def restart(self) -> None:
        self.agent = self._start(**self._variables)
        self.agent.define()
        self.open: dict[int, int] = {}
        self.pids: dict[int, int] = {}

    def kill(self) -> None:
        self.agent.process.kill()
        self.agent.process.wait()
        self.restart()

    def look(self, timeout_s: float) -> int:
        """Take what has come; return how many leases have started."""
        started = 0
        for message in self.agent.scheduler.arrived(timeout_s):
            if isinstance(message, LeaseStarted):
                self.pids[message.lease_id] = message.pid
                started += 1
            elif isinstance(message, LeaseEnded | LeaseFailed):
                assert isinstance(message, LeaseEnded) or message.kind == DEVICES_TAKEN
                self.pids.pop(message.lease_id, None)
                self.open.pop(message.lease_id, None)  # it is said again to who asks again
        return started


def run_steps(start: Start, variables: dict[str, str], directory: Path, is_enough: Callable[[], bool]) -> int:
    """Let two clusters take, give back, crash and come back at random, until enough leases have started and more.

    Returns how many leases have started; on a busy machine that takes longer, in more steps.
    """
    chance = random.Random(5)
    clusters = [Cluster(start, variables) for _number in range(2)]
    began = 0
    until = time.monotonic() + WITHIN_S
    for step in itertools.count():
        if (began >= ENOUGH and is_enough()) or time.monotonic() > until:
            break
        cluster = chance.choice(clusters)
        free = [index for index in range(2) if index not in cluster.open.values()]
        if step in {10, 20}:
            cluster.kill()
        elif free and chance.random() < 0.6:
            index = chance.choice(free)
            cluster.open[cluster.agent.start_lease(f"witness {directory}", devices=[share(index)])] = index
        elif cluster.pids and chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and that has not come yet
                os.kill(cluster.pids.pop(chance.choice(list(cluster.pids))), signal.SIGKILL)
        elif cluster.open:
            kill = chance.random() < 0.8  # else the worker may stay, and the other cluster waits
            cluster.agent.scheduler.send(EndLease(chance.choice(list(cluster.open)), kill=kill))
        began += sum(each.look(0.03) for each in clusters)
    return began


@pytest.mark.processes
@pytest.mark.parametrize("locked", [True, False], ids=["locked", "without locks"])
def test_r15_two_clusters_and_restarts_never_share_a_device(
    start_agent: Start, shared: dict[str, str], tmp_path: Path, locked: bool
) -> None:
    met = tmp_path / "met"
    variables = shared | ({} if locked else {"TEST_WITHOUT_LOCKS": "1"})
    began = run_steps(start_agent, variables, tmp_path, lambda: locked or met.exists())
    assert began >= ENOUGH
    assert met.exists() == (not locked), met.read_text() if met.exists() else "nobody met: the test finds nothing"

"""Finding, starting and stopping, with small real daemons in the place of the scheduler and the agent."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import msgspec
import psutil
import pytest

from atoll.client import daemons, launch
from atoll.client.launch import exclusive, find_cluster, start_cluster, start_or_attach, stop_cluster
from atoll.client.restarts import RESTARTS, WITHIN_S
from atoll.client.supervisor import Supervisor
from atoll.exceptions import (
    AuthenticationError,
    ClusterLostError,
    ClusterStartError,
    InsecureDirectoryError,
    ProtocolError,
    VersionMismatchError,
)
from atoll.protocol.cluster_file import ClusterFile, default_path, read_cluster_file, write_cluster_file
from atoll.protocol.handshake import Versions, our_versions
from tests.lifecycle.conftest import cluster_file, processes_naming

pytestmark = pytest.mark.processes


def start(**changes: object) -> ClusterFile:
    return start_cluster(linger_s=None, started_by="a test", **changes)  # type: ignore[arg-type]


def kill(pid: int) -> None:
    """Kill a daemon and wait until it is dead; its zombie is left for its parent to find."""
    os.kill(pid, signal.SIGKILL)
    assert not daemons.wait_for_end([pid], 5.0, look=lambda: None)


def nothing_is_left(runtime: Path) -> bool:
    return {entry.name for entry in runtime.iterdir()} <= {default_path().with_suffix(".lock").name}


def test_a_cluster_is_started_found_and_stopped(small_daemons: Path) -> None:
    assert find_cluster() is None
    cluster, started = start_or_attach(linger_s=7.0, started_by="a test")
    assert started
    assert find_cluster() == cluster == read_cluster_file(default_path())
    assert cluster.linger_s == 7.0
    assert psutil.pid_exists(cluster.scheduler_pid)
    assert psutil.pid_exists(cluster.agent_pid)
    assert os.getsid(cluster.scheduler_pid) == cluster.scheduler_pid
    stop_cluster(cluster)
    assert not psutil.pid_exists(cluster.scheduler_pid)
    assert not psutil.pid_exists(cluster.agent_pid)
    assert nothing_is_left(small_daemons)
    assert find_cluster() is None


def test_a_second_starter_attaches(small_daemons: Path) -> None:
    first = start()
    second, started = start_or_attach(linger_s=None, started_by="another")
    assert second == first
    assert not started
    stop_cluster(first)


def test_many_starters_at_once_get_one_cluster(small_daemons: Path) -> None:
    found: list[tuple[ClusterFile, bool]] = []
    starters = [
        threading.Thread(target=lambda: found.append(start_or_attach(linger_s=None, started_by="many")))
        for _ in range(8)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(found) == 8
    assert len({cluster.cluster_id for cluster, _ in found}) == 1
    assert sum(started for _, started in found) == 1
    assert len(processes_naming(small_daemons)) == 2
    stop_cluster(found[0][0])


def test_s11_the_key_is_in_no_argument_and_no_variable(small_daemons: Path) -> None:
    cluster = start()
    for pid in (cluster.scheduler_pid, cluster.agent_pid):
        process = psutil.Process(pid)
        assert cluster.key not in "".join(process.cmdline())
        assert cluster.key not in "".join(process.environ().values())
    stop_cluster(cluster)


def test_a_stale_connection_file_is_removed(runtime: Path) -> None:
    directory = runtime / "atoll-here-0123abcd"
    directory.mkdir(mode=0o700)
    (directory / "scheduler.sock").touch()
    write_cluster_file(default_path(), cluster_file(directory, scheduler_pid=os.getpid(), agent_pid=2**22 + 1))
    assert find_cluster() is None
    assert nothing_is_left(runtime)


def test_a_stale_connection_file_does_not_hinder_a_start(small_daemons: Path) -> None:
    write_cluster_file(default_path(), cluster_file(small_daemons / "atoll-gone"))
    cluster, started = start_or_attach(linger_s=None, started_by="a test")
    assert started
    stop_cluster(cluster)


def test_the_half_written_state_of_a_starting_cluster_is_not_stale(runtime: Path) -> None:
    write_cluster_file(default_path(), cluster_file(runtime / "atoll-here"))
    with exclusive(default_path(), 0.0):
        assert find_cluster() is None
    assert default_path().exists()


def test_a_wrong_key_is_said(small_daemons: Path) -> None:
    cluster = start()
    write_cluster_file(default_path(), msgspec.structs.replace(cluster, key="00" * 32))
    with pytest.raises(AuthenticationError, match="does not know this cluster's key"):
        find_cluster()
    with pytest.raises(AuthenticationError):
        start()
    assert default_path().exists()
    write_cluster_file(default_path(), cluster)
    stop_cluster(cluster)


def test_another_version_is_said_and_can_still_be_stopped(small_daemons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = start()
    ours = our_versions()
    other = Versions(ours.protocol, "99.0", ours.python, ours.cloudpickle)
    monkeypatch.setattr("atoll.protocol.handshake.our_versions", lambda: other)
    with pytest.raises(VersionMismatchError, match=r"99\.0"):
        find_cluster()
    with pytest.raises(VersionMismatchError, match=ours.atoll):
        start()
    stop_cluster(cluster, timeout_s=1.0)
    assert nothing_is_left(small_daemons)


def test_s9_a_planted_runtime_directory_is_refused(small_daemons: Path) -> None:
    small_daemons.chmod(0o777)
    with pytest.raises(InsecureDirectoryError):
        start()
    assert not processes_naming(small_daemons)
    small_daemons.chmod(0o700)


def test_a_file_that_is_none_is_said_and_kept(runtime: Path) -> None:
    default_path().touch(0o600)
    with pytest.raises(ProtocolError, match="no connection file"):
        find_cluster()
    assert default_path().exists()


@pytest.mark.parametrize("daemon", ["scheduler", "agent"])
def test_a_daemon_that_ends_while_it_starts_is_said_with_its_log(
    small_daemons: Path, monkeypatch: pytest.MonkeyPatch, daemon: str
) -> None:
    monkeypatch.setenv("SMALL_DAEMON_FAULT", f"{daemon}:crash")
    with pytest.raises(ClusterStartError, match=f"the {daemon} ended while it started") as caught:
        start()
    assert "its disk is made of cheese" in str(caught.value)
    assert nothing_is_left(small_daemons)
    assert not processes_naming(small_daemons)


def test_a_daemon_that_never_listens_is_ended(small_daemons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALL_DAEMON_FAULT", "agent:silent")
    monkeypatch.setenv("ATOLL_START_TIMEOUT_S", "1")
    with pytest.raises(ClusterStartError, match="the agent did not listen within 1 s"):
        start()
    assert nothing_is_left(small_daemons)
    assert not processes_naming(small_daemons)


def test_a_bad_setting_starts_nothing(small_daemons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_NUM_CPUS", "many")
    with pytest.raises(ValueError, match="ATOLL_NUM_CPUS"):
        start()
    assert nothing_is_left(small_daemons)


def test_a_daemon_that_does_not_want_to_end_is_killed(small_daemons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALL_DAEMON_FAULT", "scheduler:stubborn")
    cluster = start()
    with monkeypatch.context() as patch:
        patch.setattr(daemons, "CLOSING_S", 0.3)
        stop_cluster(cluster, timeout_s=0.3)
    assert nothing_is_left(small_daemons)


@pytest.mark.parametrize("daemon", launch.DAEMONS)
def test_the_next_starter_starts_the_daemon_that_is_missing(small_daemons: Path, daemon: str) -> None:
    cluster = start()
    kill(daemons.pid_of(cluster, daemon))
    revived, started = start_or_attach(linger_s=None, started_by="another")
    if daemon == "agent":  # one who looks for the scheduler only has no reason to look further
        assert revived == cluster
    else:
        assert revived.cluster_id == cluster.cluster_id
        assert revived.scheduler_pid != cluster.scheduler_pid
        assert revived.agent_pid == cluster.agent_pid
    assert not started
    stop_cluster(revived)


def test_stopping_twice_is_fine_and_spares_the_next_cluster(small_daemons: Path) -> None:
    first = start()
    stop_cluster(first)
    stop_cluster(first)
    second = start()
    stop_cluster(first)
    assert find_cluster() == second
    stop_cluster(second)


def test_a_process_that_has_got_the_number_of_a_daemon_is_left_alone(runtime: Path) -> None:
    directory = runtime / "atoll-here-0123abcd"
    directory.mkdir(mode=0o700)
    cluster = cluster_file(directory, scheduler_pid=os.getpid(), agent_pid=os.getppid())
    write_cluster_file(default_path(), cluster)
    stop_cluster(cluster)
    assert nothing_is_left(runtime)


class TestSupervisor:
    """What the Jupyter server does with a cluster."""

    @pytest.mark.parametrize("dead", [["scheduler"], ["agent"], ["scheduler", "agent"]])
    def test_it_restarts_what_died(self, small_daemons: Path, dead: list[str]) -> None:
        supervisor = Supervisor(started_by="a test")
        cluster = supervisor.start()
        assert supervisor.started_here
        assert supervisor.check() == []
        for daemon in dead:
            kill(daemons.pid_of(cluster, daemon))
        assert supervisor.check() == dead
        assert supervisor.check() == []
        assert supervisor.cluster is not None
        assert supervisor.cluster == find_cluster()
        assert (supervisor.cluster.cluster_id == cluster.cluster_id) == (len(dead) == 1)
        supervisor.stop()
        assert nothing_is_left(small_daemons)

    def test_it_leaves_a_cluster_of_others_alone(self, small_daemons: Path) -> None:
        cluster = start()
        supervisor = Supervisor(started_by="a test")
        assert supervisor.start() == cluster
        assert not supervisor.started_here
        kill(cluster.agent_pid)
        assert supervisor.check() == []
        supervisor.stop()
        assert find_cluster() == cluster
        stop_cluster(cluster)

    def test_a_cluster_that_was_stopped_on_purpose_stays_stopped(self, small_daemons: Path) -> None:
        supervisor = Supervisor(started_by="a test")
        stop_cluster(supervisor.start())
        with pytest.raises(ClusterLostError, match="was stopped"):
            supervisor.check()
        assert supervisor.check() == []
        assert isinstance(supervisor.failure, ClusterLostError)
        assert find_cluster() is None

    def test_a_daemon_that_dies_again_and_again_is_given_up(self, small_daemons: Path) -> None:
        now = 0.0
        supervisor = Supervisor(started_by="a test", clock=lambda: now)
        cluster = supervisor.start()
        for _ in range(RESTARTS):
            assert supervisor.cluster is not None
            kill(supervisor.cluster.agent_pid)
            assert supervisor.check() == ["agent"]
            now += WITHIN_S / RESTARTS / 2
        kill(supervisor.cluster.agent_pid)
        with pytest.raises(ClusterStartError, match="died 5 times within 60 s"):
            supervisor.check()
        assert supervisor.check() == []
        stop_cluster(cluster)

    def test_stopping_without_starting_is_nothing(self, runtime: Path) -> None:
        Supervisor(started_by="a test").stop()

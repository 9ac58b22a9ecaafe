"""The real daemons: claims S1, S6, S10, S11 on the whole process tree, and the life of a cluster."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from atoll.client import daemons
from atoll.client.connection import Connection
from atoll.client.launch import find_cluster, start_cluster, stop_cluster
from atoll.client.supervisor import Supervisor
from atoll.ids import new_process_id
from atoll.protocol.cluster_file import ClusterFile, default_path
from atoll.protocol.handshake import Identity
from atoll.protocol.messages import GetState, State
from atoll.protocol.state import ClusterState, decode_state
from tests.patience import eventually

pytestmark = pytest.mark.processes

DRIVER = """
import sys
import atoll

@atoll.remote
def task(size):
    print("a line of a task", flush=True)
    return bytes(size)

@atoll.remote
class Actor:
    def method(self):
        return 1

actor = Actor.options(name="named", lifetime="detached").remote()
assert atoll.get(actor.method.remote()) == 1
assert len(atoll.get(task.remote(10))) == 10
large = task.remote(2_000_000)
assert len(atoll.get(large)) == 2_000_000
atoll.cache["kept"] = bytes(1_000_000)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def umask_000() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def cluster(runtime: Path) -> Iterator[ClusterFile]:
    started = start_cluster(linger_s=None, started_by="a test")
    yield started
    stop_cluster(started)


@pytest.fixture
def driver(cluster: ClusterFile, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A client with a task, a named actor and objects in the store, that stays until its input ends."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines)
        yield process
        process.kill()


def tree(cluster: ClusterFile) -> list[psutil.Process]:
    """Return the daemons and all below them."""
    found = []
    for pid in (cluster.scheduler_pid, cluster.agent_pid):
        process = psutil.Process(pid)
        found += [process, *process.children(recursive=True)]
    return found


def state_of(cluster: ClusterFile) -> ClusterState:
    with Connection(cluster.scheduler_socket, cluster.key_bytes(), Identity("client", new_process_id())) as connection:
        answer = connection.request(GetState(connection.next_request()))
    assert isinstance(answer, State)
    return decode_state(answer.state)


def test_it_starts_and_stops_and_leaves_nothing(runtime: Path) -> None:
    cluster = start_cluster(linger_s=None, started_by="a test")
    eventually(lambda: len(state_of(cluster).nodes) == 1, "the node is there")
    stop_cluster(cluster)
    assert [entry.name for entry in runtime.iterdir()] == [default_path().with_suffix(".lock").name]


def test_s1_nothing_listens_on_the_network(cluster: ClusterFile, driver: subprocess.Popen[str]) -> None:
    processes = [*tree(cluster), psutil.Process(driver.pid)]
    assert len(processes) >= 6  # scheduler, agent, zygote, two workers, the driver
    assert {process: process.net_connections("inet") for process in processes} == {process: [] for process in processes}


def test_s6_no_socket_has_an_abstract_name(cluster: ClusterFile, driver: subprocess.Popen[str]) -> None:
    names = [
        connection.laddr
        for process in [*tree(cluster), psutil.Process(driver.pid)]
        for connection in process.net_connections("unix")
        if connection.laddr
    ]
    assert names
    assert all(name.startswith(cluster.directory) for name in names), names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_s6_another_user_is_refused_by_the_directory_and_by_the_daemons(
    runtime: Path, cluster: ClusterFile, driver: subprocess.Popen[str]
) -> None:
    program = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    try:
        connection.connect(path)
        connection.sendall(b"\\x05\\0\\0\\0hello")
        print("closed" if connection.recv(100) == b"" else "answered")
    except ConnectionError:
        print("closed")
    except PermissionError:
        print("no way")
"""
    workers = [str(path) for path in (Path(cluster.directory) / "workers").glob("*.sock")]
    sockets = [cluster.scheduler_socket, cluster.agent_socket, *workers]
    assert workers

    def try_all() -> list[str]:
        command = [sys.executable, "-c", program, *sockets]
        return subprocess.run(command, text=True, capture_output=True, check=True, cwd="/").stdout.split("\n")[:-1]

    assert try_all() == ["no way"] * len(sockets)
    # Without the permissions, the credentials of the peer must do.
    for path in [runtime, Path(cluster.directory), Path(cluster.directory) / "workers"]:
        path.chmod(0o755)
    for name in sockets:
        Path(name).chmod(0o666)
    tried = try_all()
    for path in [runtime, Path(cluster.directory), Path(cluster.directory) / "workers"]:
        path.chmod(0o700)
    assert tried == ["closed"] * len(sockets)


def test_s10_everything_is_for_its_owner_only(
    umask_000: None, runtime: Path, cluster: ClusterFile, driver: subprocess.Popen[str]
) -> None:
    entries = list(runtime.rglob("*"))
    kinds = {stat.S_IFMT(entry.lstat().st_mode) for entry in entries}
    assert kinds == {stat.S_IFDIR, stat.S_IFREG, stat.S_IFSOCK}
    modes = {str(entry): stat.S_IMODE(entry.lstat().st_mode) for entry in entries}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_s11_the_key_is_nowhere_to_be_read(cluster: ClusterFile, driver: subprocess.Popen[str]) -> None:
    for process in [*tree(cluster), psutil.Process(driver.pid)]:
        assert cluster.key not in " ".join(process.cmdline())
        assert cluster.key not in " ".join(process.environ().values())
    for log in (Path(cluster.directory) / "logs").rglob("*"):
        assert cluster.key not in log.read_text()
    state = msgspec.json.encode(state_of(cluster)).decode()
    assert cluster.key not in state


def test_stopping_ends_everything_at_work(cluster: ClusterFile, driver: subprocess.Popen[str]) -> None:
    processes = tree(cluster)
    stop_cluster(cluster)
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    assert not Path(cluster.directory).exists()


def test_a_cluster_that_hangs_is_ended(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.protocol.handshake.PROOF_WITHIN_S", 0.5)
    monkeypatch.setattr(daemons, "CLOSING_S", 0.5)
    cluster = start_cluster(linger_s=None, started_by="a test")
    os.kill(cluster.scheduler_pid, signal.SIGSTOP)
    stop_cluster(cluster, timeout_s=0.5)
    assert not psutil.pid_exists(cluster.scheduler_pid)
    assert not psutil.pid_exists(cluster.agent_pid)
    assert not default_path().exists()


def test_it_lingers_and_then_ends_by_itself(runtime: Path) -> None:
    cluster = start_cluster(linger_s=0.5, started_by="a test")
    assert find_cluster() == cluster
    assert daemons.wait_for_end([cluster.scheduler_pid, cluster.agent_pid], 10.0) == []
    assert not Path(cluster.directory).exists()
    assert not default_path().exists()


@pytest.mark.parametrize("dead", ["scheduler", "agent"])
def test_a_supervisor_makes_a_cluster_whole_again(runtime: Path, dead: str) -> None:
    supervisor = Supervisor(started_by="a test")
    cluster = supervisor.start()
    eventually(lambda: len(state_of(cluster).nodes) == 1)
    pid = daemons.pid_of(cluster, dead)
    os.kill(pid, signal.SIGKILL)
    daemons.wait_for_end([pid], 5.0)
    assert supervisor.check() == [dead]
    assert supervisor.cluster is not None
    whole = supervisor.cluster
    assert whole.cluster_id == cluster.cluster_id
    eventually(lambda: [node.pid for node in state_of(whole).nodes] == [whole.agent_pid])
    supervisor.stop()
    assert not default_path().exists()


def test_the_command_shows_and_follows(runtime: Path, tmp_path: Path) -> None:
    def atoll(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "atoll", *arguments]
        return subprocess.run(command, text=True, capture_output=True, timeout=30)

    assert atoll("up").returncode == 0
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert any(line == "ready\n" for line in iter(driver.stdout.readline, ""))
        status = atoll("status")
        assert status.returncode == 0, status.stderr
        assert "driver.py" in status.stdout
        assert "named" in status.stdout
        state = decode_state(atoll("status", "--json").stdout.encode())
        assert [actor.name for actor in state.actors] == ["named"]
        assert [name.name for name in state.names] == ["kept"]
        logs = atoll("logs", "worker")
        assert logs.returncode == 0
        assert "a line of a task" in logs.stdout
        doctor = atoll("doctor")
        assert "scheduler" in doctor.stdout
        assert "another version" not in doctor.stdout
        driver.kill()
    down = atoll("down")
    assert down.returncode == 0, down.stderr
    assert not default_path().exists()


def test_a_socket_path_is_never_too_long(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(runtime / ("deep" * 25)))
    cluster = start_cluster(linger_s=None, started_by="a test")
    assert not cluster.directory.startswith(str(runtime))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(cluster.agent_socket)
    stop_cluster(cluster)
    assert not Path(cluster.directory).exists()

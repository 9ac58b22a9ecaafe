"""The real process and the real socket: started as its starter starts it, spoken to, killed, ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.client.connection import Connection
from atoll.exceptions import ClusterLostError
from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.cluster_file import ClusterFile, write_cluster_file
from atoll.protocol.handshake import Identity
from atoll.protocol.state import decode_state
from tests.scheduler.world import PYTHON, job_id, registration

pytestmark = pytest.mark.processes


class Process:
    """A scheduler process of a cluster in a directory."""

    def __init__(self, directory: Path, linger_s: float | None = None) -> None:
        session = directory / "atoll-session"
        session.mkdir(mode=0o700, exist_ok=True)
        self.path = directory / "atoll.json"
        self.cluster = ClusterFile(
            cluster_id="c1",
            key=secrets.token_hex(32),
            host="here",
            version="0",
            directory=str(session),
            scheduler_socket=str(session / "s.sock"),
            agent_socket=str(session / "a.sock"),
            linger_s=linger_s,
            started_by="test",
            scheduler_pid=0,
            agent_pid=0,
        )
        write_cluster_file(self.path, self.cluster)
        self.start()

    def start(self) -> None:
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atoll.scheduler", "--cluster-file", str(self.path), "--ready-fd", str(writing)],
            pass_fds=[writing],
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        ready = os.read(reading, 1)
        os.close(reading)
        assert ready, self.process.communicate()

    def connect(self, role: str, process_id: bytes) -> Connection:
        return Connection(self.cluster.scheduler_socket, self.cluster.key_bytes(), Identity(role, process_id))

    def wait(self) -> str:
        _nothing, errors = self.process.communicate(timeout=10)
        return errors.decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def scheduler(socket_directory: Path) -> Iterator[Process]:
    process = Process(socket_directory)
    yield process
    if process.process.poll() is None:
        process.kill()


def receive(connection: Connection, kind: type[m.Message]) -> m.Message:
    while True:
        message = connection.receive(5)
        assert message is not None, f"no {kind.__name__}"
        if isinstance(message, kind):
            return message


def register(connection: Connection, number: int) -> m.Message:
    return connection.request(m.RegisterJob(1, job_id(number), "kernel", "a.ipynb", 1, "", PYTHON), 5)


def test_a_lease_over_real_sockets_and_an_end_that_leaves_nothing(scheduler: Process, socket_directory: Path) -> None:
    with scheduler.connect("agent", b"node0001") as agent, scheduler.connect("client", job_id(1)) as client:
        assert agent.request(registration(1, 2), 5) == m.NodeRegistered(1)
        registered = register(client, 1)
        assert isinstance(registered, m.JobRegistered)
        client.send(m.SetDemand(1, values.SchedulingClass({"CPU": 10_000}, registered.environment), 1))
        start = receive(agent, m.StartLease)
        assert isinstance(start, m.StartLease)
        agent.send(m.LeaseStarted(start.lease_id, b"worker!!", "/run/w", 5))
        granted = receive(client, m.LeaseGranted)
        assert isinstance(granted, m.LeaseGranted)
        assert granted.worker_id == b"worker!!"
        assert client.request(m.StopCluster(2), 5) == m.Done(2)
        assert receive(agent, m.StopNode) == m.StopNode()
        agent.close()
        assert "a client asked for it" in scheduler.wait()
        with pytest.raises(ClusterLostError):
            client.receive(5)
    assert scheduler.process.returncode == 0
    assert list(socket_directory.iterdir()) == []


def test_r5_kill_9_and_a_restart_keep_names_and_actors(scheduler: Process) -> None:
    spec = values.ActorSpec(b"a" * 16, "llm", "", "Llm", values.SchedulingClass({}, ""), b"opaque")
    with scheduler.connect("agent", b"node0001") as agent, scheduler.connect("client", job_id(1)) as client:
        agent.request(registration(1, 2), 5)
        register(client, 1)
        inline = values.ObjectLocation(b"o" * 20, inline=b"value")
        assert client.request(m.PublishName(2, "n", inline), 5) == m.Done(2)
        assert isinstance(client.request(m.CreateActor(3, job_id(1), spec), 5), m.ActorChanged)
        scheduler.kill()
    scheduler.start()
    with scheduler.connect("client", job_id(2)) as client:
        assert client.request(m.ClaimName(1, "n"), 5) == m.NameClaimed(1, inline, False)
        found = client.request(m.GetActor(2, "llm", ""), 5)
        assert isinstance(found, m.ActorChanged)
        assert found.state == "pending", "its process had not been begun"


def test_a_damaged_journal_is_no_obstacle(scheduler: Process) -> None:
    scheduler.kill()
    journal = Path(scheduler.cluster.directory) / "journal.sqlite"
    journal.write_bytes(b"torn" * 1000)
    for companion in ("-wal", "-shm"):
        journal.with_name(journal.name + companion).unlink(missing_ok=True)
    scheduler.start()
    with scheduler.connect("client", job_id(1)) as client:
        assert isinstance(client.request(m.GetState(1), 5), m.State)
    scheduler.kill()
    assert journal.with_name("journal.sqlite.damaged-1").exists()


def test_a_cluster_that_nobody_uses_ends_by_itself(socket_directory: Path) -> None:
    process = Process(socket_directory, linger_s=0.2)
    assert "nobody used it" in process.wait()
    assert list(socket_directory.iterdir()) == []


def test_sigterm_ends_the_cluster(scheduler: Process, socket_directory: Path) -> None:
    with scheduler.connect("agent", b"node0001") as agent:
        agent.request(registration(1, 2), 5)
        scheduler.process.send_signal(signal.SIGTERM)
        assert receive(agent, m.StopNode) == m.StopNode()
    scheduler.wait()
    assert list(socket_directory.iterdir()) == []


def test_s19_fields_of_any_content_do_not_end_the_daemon(scheduler: Process) -> None:
    huge = 2**63 - 1
    odd: list[m.Message] = [
        m.SetDemand(huge, values.SchedulingClass({"CPU": huge, "": -1}, "x", huge, "zz"), huge),
        m.SetDemand(1, values.SchedulingClass({}, "", node="\x00"), huge),
        m.ReturnLease(-1),
        m.TaskBlocked(0),
        m.CreateActor(1, b"", values.ActorSpec(b"", "", "", "", values.SchedulingClass({}, ""), b"")),
        m.WatchState(float("inf")),
        m.WatchState(-1e300),
        m.PublishName(1, "x" * 5000, values.ObjectLocation(b"")),
        m.ClaimName(1, "\ud7ff" * 2000, True),
        m.RegisterNode(1, b"", "", -1, "", {"CPU": -5}, [], {}),
        m.LeaseEnded(1),
        m.KillActor(-huge, b""),
    ]
    for role in ("client", "worker", "agent"):
        with scheduler.connect(role, job_id(1)) as peer:
            if role == "client":
                register_later = m.RegisterJob(1, job_id(1), "kernel", "", -huge, "", None)
                peer.send(register_later)
            for message in odd:
                peer.send(message)
            with contextlib.suppress(ClusterLostError):
                while peer.receive(0.1) is not None:
                    pass
    with scheduler.connect("client", job_id(3)) as client:
        answer = client.request(m.GetState(1), 5)
        assert isinstance(answer, m.State)
        assert decode_state(answer.state).leases == []
    assert scheduler.process.poll() is None


def test_an_idle_scheduler_does_nothing(scheduler: Process) -> None:
    with scheduler.connect("agent", b"node0001") as agent, scheduler.connect("client", job_id(1)) as client:
        agent.request(registration(1, 2), 5)
        register(client, 1)
        fields = Path(f"/proc/{scheduler.process.pid}/stat")
        before = fields.read_text().rsplit(")", 1)[1].split()[11:13]
        time.sleep(0.6)
        after = fields.read_text().rsplit(")", 1)[1].split()[11:13]
        used = sum(map(int, after)) - sum(map(int, before))
        assert used <= 1, f"{used} ticks of processor time in 0.6 s"

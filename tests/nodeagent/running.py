"""A real agent with a small scheduler around it, for tests with processes."""

from __future__ import annotations

import itertools
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from atoll.client.connection import Connection
from atoll.ids import IdFactory, new_process_id
from atoll.protocol.cluster_file import ClusterFile, write_cluster_file
from atoll.protocol.framing import FrameDecoder, frame
from atoll.protocol.handshake import Identity, ServerHandshake
from atoll.protocol.messages import (
    AttachProcess,
    DefineEnvironment,
    Failed,
    GetObject,
    LeaseStarted,
    Message,
    NodeRegistered,
    NodeSampled,
    RegisterNode,
    StartLease,
    decode,
    encode,
)
from atoll.protocol.values import DeviceShare, Environment, SchedulingClass
from tests.patience import PATIENCE_S

HERE = Path(__file__).parent
JOB = b"job-0001"
MessageT = TypeVar("MessageT", bound=Message)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second if it ends between opening the file and reading it
        return False


class SmallScheduler:
    """The scheduler's end of the agent's connection, driven by the test."""

    def __init__(self, path: str, key: bytes) -> None:
        self._key = key
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(4)
        self._listener.settimeout(PATIENCE_S)
        self._path = path
        self._connected: socket.socket | None = None
        self._received: list[Message] = []

    def accept(self) -> RegisterNode:
        """Take the agent's connection and its registration."""
        connected, _address = self._listener.accept()
        self._connected = connected
        self._decoder = FrameDecoder()
        handshake = ServerHandshake(self._key, Identity("scheduler", new_process_id()))
        bodies: list[bytes] = []
        while not handshake.finished:
            while not bodies:
                bodies.extend(self._decoder.feed(connected.recv(65536)))
            connected.sendall(frame(handshake.receive(bodies.pop(0))))
        self._received.extend(decode(body) for body in bodies)
        registered = self.expect(RegisterNode)
        self.send(NodeRegistered(registered.request))
        return registered

    def send(self, message: Message) -> None:
        assert self._connected is not None
        self._connected.sendall(frame(encode(message)))

    def expect(self, message_type: type[MessageT], timeout_s: float = PATIENCE_S, **fields: object) -> MessageT:
        """Return the next message of a kind with these fields, leaving others in their order."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        while True:
            for index, message in enumerate(self._received[seen:], seen):
                if isinstance(message, message_type) and all(getattr(message, n) == v for n, v in fields.items()):
                    del self._received[index]
                    return message
            seen = len(self._received)
            assert self._connected is not None
            if not select.select([self._connected], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(
                    f"no {message_type.__name__} {fields} within {timeout_s} s; there are {self._received}"
                )
            data = self._connected.recv(65536)
            assert data, f"the agent closed the connection; {message_type.__name__} {fields} did not come"
            new = [decode(body) for body in self._decoder.feed(data)]
            self._received.extend(m for m in new if message_type is NodeSampled or not isinstance(m, NodeSampled))

    def arrived(self, timeout_s: float) -> list[Message]:
        """Return what comes within some time, samples left out."""
        deadline = time.monotonic() + timeout_s
        while self._connected is not None:
            if not select.select([self._connected], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            data = self._connected.recv(65536)
            if not data:
                break
            self._received.extend(decode(body) for body in self._decoder.feed(data))
        found, self._received = self._received, []
        return [message for message in found if not isinstance(message, NodeSampled)]

    def drop(self) -> None:
        """Lose the connection."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def close(self) -> None:
        self.drop()
        self._listener.close()
        Path(self._path).unlink(missing_ok=True)


class RunningAgent:
    """An agent in a process of its own, connected to a small scheduler."""

    def __init__(self, directory: Path, variables: dict[str, str], worker_module: str) -> None:
        self.directory = directory
        (directory / "logs").mkdir(mode=0o700)
        self.key = secrets.token_bytes(32)
        self.cluster = ClusterFile(
            cluster_id="00",
            key=self.key.hex(),
            host="here",
            version="0",
            directory=str(directory),
            scheduler_socket=str(directory / "scheduler.sock"),
            agent_socket=str(directory / "agent.sock"),
            linger_s=None,
            started_by="test",
            scheduler_pid=0,
            agent_pid=0,
        )
        write_cluster_file(directory / "cluster.json", self.cluster)
        self.scheduler = SmallScheduler(self.cluster.scheduler_socket, self.key)
        self.worker_module = worker_module
        self._leases = itertools.count(1)
        reader, writer = os.pipe()
        defaults = {"ATOLL_NUM_CPUS": "2", "ATOLL_STORE_CAPACITY_BYTES": "256M"}
        with (directory / "logs" / "agent.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    str(HERE / "run_agent.py"),
                    str(directory / "cluster.json"),
                    str(writer),
                    worker_module,
                ],
                pass_fds=(writer,),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | defaults | variables,
            )
        os.close(writer)
        ready = select.select([reader], [], [], PATIENCE_S)[0] and os.read(reader, 1)
        os.close(reader)
        if not ready:
            raise AssertionError("the agent did not start:\n" + (directory / "logs" / "agent.log").read_text())
        self.registered = self.scheduler.accept()

    def environment(self, **changes: object) -> Environment:
        values: dict[str, object] = {
            "executable": sys.executable,
            "sys_path": [*sys.path, str(HERE)],
            "working_directory": str(self.directory),
            "variables": {"PATH": os.environ["PATH"], "HOME": "/", "FROM_KERNEL": "yes"},
        }
        return Environment(**(values | changes))  # type: ignore[arg-type]

    def define(self, digest: str = "e1", prepare: bool = False, **changes: object) -> None:
        self.scheduler.send(DefineEnvironment(digest, self.environment(**changes), prepare))

    def start_lease(
        self,
        label: str = "",
        devices: list[DeviceShare] | None = None,
        digest: str = "e1",
        cpus: int = 1,
        dedicated: bool = False,
        job: bytes = JOB,
    ) -> int:
        lease_id = next(self._leases)
        wanted = SchedulingClass({"CPU": 10_000 * cpus}, digest, label=label)
        self.scheduler.send(StartLease(lease_id, job, wanted, devices or [], dedicated))
        return lease_id

    def lease(self, label: str = "", **options: object) -> LeaseStarted:
        lease_id = self.start_lease(label, **options)  # type: ignore[arg-type]
        return self.scheduler.expect(LeaseStarted, lease_id=lease_id)

    @contextmanager
    def attached(self) -> Iterator[tuple[Connection, IdFactory]]:
        """A client of the store."""
        process_id = new_process_id()
        with Connection(self.cluster.agent_socket, self.key, Identity("client", process_id)) as connection:
            connection.request(AttachProcess(connection.next_request(), process_id, os.getpid()))
            yield connection, IdFactory(process_id)

    def log(self) -> str:
        return (self.directory / "logs" / "agent.log").read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.scheduler.close()


def ask(connection: Connection, ids: IdFactory) -> float:
    """Ask the store for what it does not have; return how long the answer took, in seconds."""
    begin = time.perf_counter()
    assert isinstance(connection.request(GetObject(connection.next_request(), ids.object_id())), Failed)
    return time.perf_counter() - begin


def check_that_it_answers_meanwhile(waits: list[float], usual: list[float]) -> None:
    """Fail if the agent's loop stood still while it did something large (claim R12: for more than 0.1 s).

    A machine that is busy with others makes every answer late, so what answers took before counts too; and one of a
    hundred may be late for want of a processor. A loop that does the work itself answers nothing until it is done.

    Args:
        waits: How long answers took meanwhile, in seconds.
        usual: How long they took before.
    """
    late = sorted(waits)[-1 - len(waits) // 100]
    limit_s = max(0.1 + 10 * max(usual), sum(waits) / 3)
    assert late < limit_s, f"the loop stood still for {late * 1e3:.0f} ms; before, for {max(usual) * 1e3:.0f} ms"

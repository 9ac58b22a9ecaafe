"""A worker that runs no user code: it does what the label of its lease says. For tests of the agent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from atoll.client.connection import Connection
from atoll.nodeagent.zygote_messages import WorkerStart
from atoll.protocol.handshake import Identity
from atoll.protocol.messages import (
    ActorConstructed,
    AttachProcess,
    BeginLease,
    ConstructActor,
    StopWorker,
    WorkerStarted,
)


def run_worker(start: WorkerStart) -> None:
    connection = Connection(start.agent_socket, start.key, Identity("worker", start.worker_id))
    connection.request(AttachProcess(connection.next_request(), start.worker_id, os.getpid()))
    Path(start.socket_path).touch()
    connection.send(WorkerStarted(start.socket_path, os.getpid()))
    while True:
        message = connection.receive()
        if isinstance(message, StopWorker):
            return
        if isinstance(message, BeginLease):
            begin(message)
        if isinstance(message, ConstructActor):
            error = message.spec.payload
            connection.send(ActorConstructed(message.spec.actor_id, error.decode(), error))


def begin(message: BeginLease) -> None:
    what, _, argument = message.label.partition(" ")
    if what == "exit":
        sys.exit(int(argument))
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "report":
        # What the process is like, for a test to look at.
        import random

        lines = [f"{name}={value}" for name, value in sorted(os.environ.items())]
        lines += [f"argv {sys.argv}", f"random {random.random()}", f"cwd {Path.cwd()}", f"path {sys.path}"]
        lines += [f"fd {entry}" for entry in sorted(Path("/proc/self/fd").iterdir())]
        lines += [f"module {name}" for name in sys.modules if name in {"numpy", "pyarrow", "cloudpickle"}]
        Path(argument).with_suffix(".tmp").write_text("\n".join(lines))
        Path(argument).with_suffix(".tmp").rename(argument)
    elif what == "spawn":
        sleepers = [
            subprocess.Popen(["sleep", "1000"]),
            subprocess.Popen(["sleep", "1000"], start_new_session=True),
            # A daemon as of old: its parent ends, so that it is nobody's child.
            subprocess.Popen(["sh", "-c", "setsid sleep 1000 & echo $! > " + argument + ".daemon"]),
        ]
        sleepers[2].wait()
        pids = [os.getpid(), sleepers[0].pid, sleepers[1].pid, int(Path(argument + ".daemon").read_text())]
        pids += [leave_daemon(None), leave_daemon({})]
        Path(argument).with_suffix(".tmp").write_text(" ".join(map(str, pids)))
        Path(argument).with_suffix(".tmp").rename(argument)
    elif what == "flee":
        held = os.open(argument, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        leave_daemon(None, flees=True)
    elif what == "cuda":
        path, _, size = argument.rpartition(" ")
        Path(path).with_suffix(".tmp").write_text(take_device_memory(int(size)))
        Path(path).with_suffix(".tmp").rename(path)
    elif what == "witness":
        witness(Path(argument))
    elif what == "leave-child":
        witness(Path(argument))
        leave_child(Path(argument))
    elif what == "print":
        print(argument)
        print(argument, file=sys.stderr)
    elif what == "sleep":
        time.sleep(float(argument))


witnesses: list[int] = []


def witness(directory: Path) -> None:
    """Say that this process has its devices, as long as it lives; write down whom it meets there."""
    while witnesses:  # of the lease before
        os.close(witnesses.pop())
    for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
        descriptor = os.open(directory / f"{uuid}.witness", os.O_RDWR | os.O_CREAT, 0o600)
        witnesses.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 20, 0).decode()
            with (directory / "met").open("a") as met:
                met.write(f"{os.getpid()} met {other} on {uuid}\n")
        os.pwrite(descriptor, str(os.getpid()).encode().ljust(20), 0)


def leave_child(directory: Path) -> None:
    """Leave a process that nobody finds and that goes on using the device until it is told to end."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        (directory / "child.tmp").write_text(str(os.getpid()))
        (directory / "child.tmp").rename(directory / "child")
        while not (directory / "end").exists():
            time.sleep(0.01)
        os._exit(0)
    os.wait()


def leave_daemon(variables: dict[str, str] | None, *, flees: bool = False) -> int:
    """Leave a process that is nobody's child, in a session of its own, and return its id.

    Args:
        variables: What it runs a program with; None if it runs none and stays as it was forked.
        flees: Whether it is another process every few milliseconds.
    """
    readable, writable = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(writable, b"%d\n" % os.getpid())
        if variables is not None:
            os.closerange(3, 256)
            os.execve("/bin/sleep", ["sleep", "1000"], variables)
        os.close(writable)
        while flees:
            time.sleep(0.002)
            if os.fork():
                os._exit(0)
        time.sleep(1000.0)
    os.waitpid(first, 0)
    os.close(writable)
    with os.fdopen(readable) as file:
        return int(file.readline())


def take_device_memory(size: int) -> str:
    """Hold memory of the first visible device until this process ends; say how many devices are visible."""
    cuda = ctypes.CDLL("libcuda.so.1")
    count, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    for status in (
        cuda.cuInit(0),
        cuda.cuDeviceGetCount(ctypes.byref(count)),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        cuda.cuCtxSetCurrent(context),
        cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)),
    ):
        if status:
            return f"CUDA answered {status}"
    return f"{count.value} visible"

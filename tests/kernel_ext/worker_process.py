"""An engine whose workers are plain processes: cells run in a process of their own, as on a cluster, without one.

So the tests of this room need no daemon. Each test that needs the cluster itself is marked `processes`.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from atoll.exceptions import AtollError, TaskError, TaskUnschedulableError
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine.contract import Glance, OnOutput, Options
from atoll.protocol.state import ActorState, ClusterState
from atoll.protocol.usage import UsageReport
from atoll.protocol.values import NameInfo


def _serve(connection: Any) -> None:
    """Run what comes, one after the other, in the worker process."""
    import types

    sent = types.ModuleType("atoll.client.context")
    sent.emit_output = lambda kind, payload: connection.send(("output", kind, payload))  # type: ignore[attr-defined]
    sys.modules["atoll.client.context"] = sent
    objects: dict[str, Any] = {}
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, KeyboardInterrupt):
            return
        kind, *details = pickle.loads(message)
        try:
            if kind == "make":
                key, made = details
                objects[key] = made()
                value = None
            elif kind == "call":
                key, method, arguments = details
                value = getattr(objects[key], method)(*arguments)
            else:
                function, arguments = details
                value = function(*arguments)
            answer = ("value", cloudpickle.dumps(value))
        except BaseException as error:
            answer = ("error", cloudpickle.dumps(TaskError("cell", "", error).as_instance_of_cause()))
        connection.send(answer)


class WorkerProcess:
    """A worker process and a thread that reads what it sends."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            arguments = [sys.executable, "-m", "tests.kernel_ext.worker_process", str(theirs.fileno())]
            self.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()])
        self._mine = Connection(mine.detach())
        self._lock = threading.Lock()
        self._current: tuple[Future[Any], OnOutput | None] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: tuple[Any, ...], on_output: OnOutput | None) -> Future[Any]:
        future = NamedFuture()
        self._current = (future, on_output)
        self._mine.send_bytes(cloudpickle.dumps(message))
        return future

    def _read(self) -> None:
        while True:
            try:
                kind, *details = self._mine.recv()
            except (EOFError, OSError):
                return
            assert self._current is not None
            future, on_output = self._current
            if kind == "output":
                if on_output is not None:
                    on_output(*details)
            elif kind == "value":
                future.set_result(pickle.loads(details[0]))
            else:
                future.set_exception(pickle.loads(details[0]))

    def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        self._mine.close()


class ProcessRun:
    def __init__(self, worker: WorkerProcess, future: Future[Any]) -> None:
        self._worker = worker
        self.future = future
        self.ref = future

    def cancel(self, *, force: bool = False) -> None:
        self._worker.interrupt()


class NamedFuture(Future[Any]):
    """A task's future that is its ref as well."""

    def __init__(self) -> None:
        super().__init__()
        self._id = os.urandom(8)

    def binary(self) -> bytes:
        return self._id


class NameClaim:
    """A claim that is answered at once: these engines have one notebook."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref
        self.future: Future[Any] = Future()
        self.future.set_result(ref)

    def cancel(self, *, force: bool = False) -> None:
        pass


class ProcessActor:
    def __init__(self, engine: ProcessEngine, worker: WorkerProcess, name: str, kind: type) -> None:
        self._engine = engine
        self.worker = worker
        self._name = name
        self.kind = kind
        self.class_name = kind.__name__

    def call(self, method: str, *arguments: Any, on_output: OnOutput | None = None, label: str = "") -> ProcessRun:
        if not hasattr(self.kind, method):
            raise AttributeError(method)
        return ProcessRun(self.worker, self.worker.send(("call", self._name, method, arguments), on_output))

    def kill(self, cause: str = "") -> None:
        self.worker.close()
        del self._engine.actors[self._name]


class ProcessEngine:
    """See `atoll.kernel_ext.engine.contract.Engine`. It has 2 CPUs and no GPU."""

    def __init__(self) -> None:
        self._worker = WorkerProcess()
        self.actors: dict[str, ProcessActor] = {}
        self.requests: list[tuple[CellRequest, Options, str]] = []
        self.job_id = "0102030405060708"
        self.objects: dict[str, Any] = {}
        self.kept = ""

    def _check(self, options: Options) -> None:
        if options.get("num_gpus"):
            raise TaskUnschedulableError(
                f"{options['num_gpus']:g} GPU asked for; the largest node has 2 CPU and no GPU"
            )

    def run_cell(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> ProcessRun:
        from atoll.kernel_ext.cell_runner import run_cell

        self._check(options)
        self.requests.append((request, options, label))
        return ProcessRun(self._worker, self._worker.send(("run", run_cell, (request,)), on_output))

    def run_cached(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> ProcessRun:
        from atoll.kernel_ext.cached.runner import run_cached_cell

        self._check(options)
        self.requests.append((request, options, label))
        return ProcessRun(self._worker, self._worker.send(("run", run_cached_cell, (request,)), on_output))

    def claim(self, name: str) -> NameClaim:
        return NameClaim(self.objects.get(name))

    def publish(self, name: str, ref: Any) -> None:
        self.objects[name] = ref

    def drop(self, name: str) -> bool:
        return self.objects.pop(name, None) is not None

    def value(self, ref: Any) -> Any:
        return pickle.loads(cloudpickle.dumps(ref.result(30)))

    def object_of(self, name: str) -> str:
        return self.objects[name].binary().hex() if name in self.objects else ""

    def names(self) -> list[NameInfo]:
        return [NameInfo(name, "ready", 1000, time.time()) for name in self.objects]

    def find_actor(self, name: str) -> ProcessActor | None:
        return self.actors.get(name)

    def make_actor(self, kind: type, name: str, options: Options, *arguments: Any) -> ProcessActor:
        self._check(options)
        if name in self.actors:
            raise ValueError(f"the name {name!r} is taken")
        worker = WorkerProcess()
        worker.send(("make", name, kind), None).result(30)
        self.actors[name] = ProcessActor(self, worker, name, kind)
        return self.actors[name]

    def wait(self, running: Any) -> Any:
        return running.future.result(30)

    def state(self) -> ClusterState:
        actors = [
            ActorState("a" * 32, name, "", actor.class_name, "alive", 0, "", 0, self.job_id, {}, [], "", time.time())
            for name, actor in self.actors.items()
        ]
        return ClusterState("c" * 16, "0.1.0", time.time(), time.time(), False, [], [], actors, [], [], [], [], [])

    def cluster_id(self) -> str:
        return "c" * 16

    def directory(self) -> str:
        return self.kept

    def glance(self) -> Glance:
        state = self.state()
        return Glance(state.now, state.nodes, state.leases, state.actors, state.demands)

    def usage(self) -> UsageReport:
        return UsageReport(0.0, 0.0, 0, [])

    def release_gpu(self, gpu: str) -> None:
        raise AtollError(f"no GPUs are meant by {gpu!r}")

    def job(self) -> str:
        return self.job_id

    def close(self) -> None:
        for actor in list(self.actors.values()):
            actor.kill()
        self._worker.close()


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))

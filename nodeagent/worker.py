"""A worker: a process that was forked from a zygote and runs what its lease's holder pushes to it.

It attaches to its node agent, listens for callers, and from then on does what it is told: `BeginLease` says whose work
comes now, `ConstructActor` makes it an actor for good, `FinishLease` and `StopWorker` end that. If its agent is gone,
so is its reason to be: it exits at once.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from atoll.client import arguments, context
from atoll.client.current import set_current_session
from atoll.client.session import Session
from atoll.client.task_output import TaskForwarder
from atoll.client.uplinks import Introduction
from atoll.exceptions import ActorDiedError, AtollError, TaskError
from atoll.ids import ProcessId
from atoll.nodeagent import device_errors
from atoll.nodeagent.absence import offloads
from atoll.nodeagent.executor import Executor
from atoll.nodeagent.failures import error_payload
from atoll.nodeagent.output import TaskStream
from atoll.nodeagent.spans import SpanRecorder
from atoll.nodeagent.zygote_messages import WorkerStart
from atoll.placement import Scope
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.leave_messages import OffloadDevices, RestoreDevices
from atoll.protocol.machine import Peer
from atoll.protocol.messages import (
    ActForJob,
    ActorConstructed,
    BeginLease,
    ConstructActor,
    FinishLease,
    ReportDeviceFault,
    StopWorker,
    WorkerStarted,
)
from atoll.protocol.serialization import deserialize, serialize
from atoll.protocol.values import ActorPayload

_decode_payload = msgspec.msgpack.Decoder(ActorPayload).decode


class Worker:
    """One worker process.

    Args:
        start: What the node agent says to it.

    Raises:
        ClusterLostError: The agent does not answer.
    """

    def __init__(self, start: WorkerStart) -> None:
        self._spans = SpanRecorder(start.worker_id)
        self._session = Session(_cluster(start), ProcessId(start.worker_id), Introduction("worker"))
        self._session.environment = start.environment
        self._session.hooks.control = self._told
        self._session.hooks.agent_lost = _exit_at_once
        where = f"pid {os.getpid()} on {socket.gethostname()}"
        self._executor = Executor(self._session, where, self._spans)
        self._where = where
        context.install(self._executor.emit, self._executor.context)
        self._session.default_output = TaskForwarder(self._executor.emit)
        sys.stdout = TaskStream("stdout", sys.stdout, self._executor.emit)
        sys.stderr = TaskStream("stderr", sys.stderr, self._executor.emit)
        set_current_session(self._session)

    def run(self) -> None:
        """Serve until told to stop."""
        self._session.start()
        self._session.tell_agent(WorkerStarted(self._session.address, os.getpid()))
        self._executor.run()
        self._session.close()

    def _told(self, _peer: Peer, message: Any) -> None:
        """Do what the agent says. The session's lock is held."""
        executor = self._executor
        if isinstance(message, BeginLease):
            executor.lease_id = message.lease_id
            if executor.job != message.job:
                executor.job = message.job
                self._session.tell_scheduler_locked(ActForJob(message.job))
            executor.gpu_ids = [share.index for share in message.devices]
            self._session.job = ProcessId(message.job)
            scope = self._session.scope
            if (scope.group, scope.captures) != (message.group, message.capture):
                self._session.scope = Scope(message.group, message.capture)
            self._session.namespace = message.namespace
            context.hold_resources(message.resources)
            context.hold_gpus(executor.gpu_ids)
            device_errors.watch(self._device_failed if message.devices else None)
        elif isinstance(message, FinishLease):
            executor.lease_id = 0
        elif isinstance(message, ConstructActor):
            executor.later(lambda: self._construct(message))
        elif isinstance(message, OffloadDevices):
            executor.give_devices_up(message.lease_id)
        elif isinstance(message, RestoreDevices):
            executor.devices_are_back()
        elif isinstance(message, StopWorker):
            executor.stop()

    def _device_failed(self, text: str, counts: bool) -> None:
        """CUDA is of no use in this process any more: it takes no task after this one, and the agent replaces it."""
        self._executor.retire_soon()
        self._session.tell_agent(ReportDeviceFault(text, counts))

    def _construct(self, message: ConstructActor) -> None:
        spec = message.spec
        name = f"{spec.class_name}.__init__"
        error, text = b"", ""
        context.enter_actor(
            context.ActorContext(spec.actor_id, spec.name, spec.class_name, spec.interface, message.incarnation > 0)
        )
        try:
            payload = _decode_payload(spec.payload)
            values = [self._executor.results.load(location) for location in payload.dependencies]
            args, kwargs = arguments.unpack(payload.arguments, values)
            user_class = deserialize(payload.code)
            self._executor.make_actor(user_class, lambda: user_class(*args, **kwargs), spec)
        except BaseException as problem:  # whatever a constructor raises is the answer
            error = _died_of(error_payload(problem, name, self._where))
            text = f"{type(problem).__name__}: {problem}"
        own = bool(spec.idle_s) and not text and offloads(self._executor.actor)
        self._session.tell_agent(ActorConstructed(spec.actor_id, text, error, own))


def _died_of(payload: bytes) -> bytes:
    """Return the error of an actor whose constructor has raised, with what it raised as its cause."""
    cause = deserialize(payload)
    text = f"the actor died because of an error raised in its constructor:\n{cause}"
    return serialize(ActorDiedError(text, cause if isinstance(cause, TaskError) else None)).data


def _cluster(start: WorkerStart) -> ClusterFile:
    """Return what a session needs to know of its cluster."""
    return ClusterFile(
        cluster_id="",
        key=start.key.hex(),
        host=socket.gethostname(),
        version="",
        directory=str(Path(start.socket_path).parent.parent),
        scheduler_socket=start.scheduler_socket,
        agent_socket=start.agent_socket,
        linger_s=None,
        started_by="",
        scheduler_pid=0,
        agent_pid=os.getppid(),
    )


def _exit_at_once() -> NoReturn:
    os._exit(0)


def run_worker(start: WorkerStart) -> None:
    """Be a worker until told to stop. Called in the child of a zygote's fork."""
    try:
        Worker(start).run()
    except AtollError as error:
        print(f"atoll worker {os.getpid()}: {type(error).__name__}: {error}", file=sys.__stderr__)
        os._exit(1)

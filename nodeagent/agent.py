"""The shell of the node agent: one tornado loop that carries out what the core decides.

Bytes come in through the endpoint and the zygotes' sockets, and each becomes an event; the core answers with actions,
and each has a method here. Nothing here decides. What may take long (reserving memory, asking a driver, waiting for a
process) runs in threads and comes back as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from tornado.ioloop import IOLoop

from atoll.config import Settings
from atoll.exceptions import AtollError, AuthenticationError, RuntimeEnvSetupError, VersionMismatchError
from atoll.ids import new_process_id
from atoll.nodeagent import processes
from atoll.nodeagent.core.agent import AgentCore
from atoll.nodeagent.core.events import (
    AgentUnreachable,
    CheckpointDevices,
    ClaimDevices,
    CreateSegment,
    CutSegment,
    DeleteSpillFile,
    DestroySegment,
    DevicesCheckpointed,
    DialAgent,
    DialScheduler,
    Exit,
    ForgetDevice,
    ForkFailed,
    ForkWorker,
    KillWorker,
    MeasureDeviceMemory,
    MeasureMemory,
    ObserveNode,
    ProcessExited,
    RememberDevice,
    RestoreCheckpoint,
    RestoreObject,
    SendPiece,
    SendWithSegments,
    SpillObjects,
    StartZygote,
    StopRequested,
    StopZygote,
    UnlockDevices,
    WritePiece,
    ZygoteDied,
)
from atoll.nodeagent.core.node import NodeDescription
from atoll.nodeagent.device_locks import open_locks
from atoll.nodeagent.device_records import DeviceRecords
from atoll.nodeagent.gpus import Provider, find_checkpoints, find_provider
from atoll.nodeagent.host_memory import HostMemory
from atoll.nodeagent.logs import WorkerLogs
from atoll.nodeagent.memory import Memory
from atoll.nodeagent.monitor import Monitor, measure_memory
from atoll.nodeagent.zygote_messages import Fork, WorkerStart
from atoll.nodeagent.zygotes import ZygoteProcess, why_not_started
from atoll.protocol.cluster_file import ClusterFile, node_directory, node_socket
from atoll.protocol.endpoint import Endpoint
from atoll.protocol.handshake import Identity
from atoll.protocol.machine import Action, ClosePeer, DeadlineReached, Event, Instant, Send
from atoll.protocol.messages import ObjectPiece
from atoll.resources import CPU, GPU, MEMORY, amounts_of

WORKER_MODULE = "atoll.nodeagent.worker"

_DIAL_AGAIN_S = 0.01
_LOGS_EVERY_S = 20.0
_END_WITHIN_S = 2.0
_OOM_SCORE = -900
_logger = logging.getLogger("atoll.nodeagent")


class NodeAgent:
    """The node agent of a cluster.

    Args:
        cluster: Where everything is, and the key.
        settings: What the node offers.
        worker_module: What workers run; tests give another.
        provider: What knows the devices; found if None.
        host_memory: What knows how much memory is left; the kernel if None.
        name: Of a node that is not the first of its host; empty for the first.
    """

    def __init__(
        self,
        cluster: ClusterFile,
        settings: Settings,
        *,
        worker_module: str = WORKER_MODULE,
        provider: Provider | None = None,
        host_memory: HostMemory | None = None,
        name: str = "",
    ) -> None:
        if name:
            cluster = msgspec.structs.replace(cluster, agent_socket=node_socket(cluster, name))
        self._cluster = cluster
        self._key = cluster.key_bytes()
        self._worker_module = worker_module
        self._directory = Path(cluster.directory)
        (self._directory / "workers").mkdir(mode=0o700, exist_ok=True)
        own = node_directory(cluster, name)
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs = WorkerLogs(own / "logs", settings.log_bytes)
        self._provider = provider or find_provider(settings)
        devices = self._provider.devices()
        simulated = any(device.simulated for device in devices)
        self._locks = open_locks(settings.device_locks, self._directory, simulated=simulated) if devices else None
        self._records = DeviceRecords(self._locks.directory) if self._locks is not None else None
        self._monitor = Monitor(self._provider, self._locks)
        self._host_memory = host_memory or HostMemory()
        self._checkpoints = find_checkpoints(self._provider)
        self.node = describe_node(cluster, settings, self._provider, name)
        self.core = AgentCore(
            self.node,
            new_process_id,
            self._now(),
            prepared_bytes=settings.store_prepared_bytes,
            give_back_s=settings.store_idle_give_back_s,
            patience_s=settings.store_patience_s,
            kept_free_bytes=settings.memory_kept_free_bytes,
            no_checkpoint=self._checkpoints.why_not(),
            device_records=self._records.read([device.uuid for device in devices]) if self._records else (),
        )
        self.endpoint = Endpoint(self._key, Identity("agent", self.node.node_id), self.deliver)
        self._zygotes: dict[str, ZygoteProcess] = {}
        self._ending_zygotes: dict[ZygoteProcess, None] = {}
        self._forked_from: dict[bytes, str] = {}
        self._memory = Memory(own, settings.spill_directory, self.deliver, self._after)
        self._measuring_thread = ThreadPoolExecutor(1, thread_name_prefix="atoll-measuring")
        self._checkpoint_threads = ThreadPoolExecutor(4, thread_name_prefix="atoll-checkpoint")
        self._memory_thread = ThreadPoolExecutor(1, thread_name_prefix="atoll-host-memory")
        self._events: deque[Event] = deque()
        self._handling = False
        self._timer: object | None = None
        self._timer_at: Instant | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._dials: dict[asyncio.Task[None], None] = {}
        self._ended: asyncio.Future[str] | None = None
        self._carry_out = self._action_table()

    def _action_table(self) -> dict[type[Action], Callable[[Any], None]]:
        """Return what carries out which action."""
        return {
            Send: lambda action: self.endpoint.send(action.peer, action.message),
            SendWithSegments: self._send_with_segments,
            ClosePeer: self._close_peer,
            StartZygote: self._start_zygote,
            StopZygote: self._stop_zygote,
            ForkWorker: self._fork_worker,
            KillWorker: self._kill_worker,
            CreateSegment: self._memory.create,
            CutSegment: self._memory.cut,
            DestroySegment: self._memory.destroy,
            SpillObjects: self._memory.spill,
            RestoreObject: self._memory.restore,
            DeleteSpillFile: self._memory.delete,
            ClaimDevices: self._claim_devices,
            UnlockDevices: self._unlock_devices,
            RememberDevice: self._remember_device,
            ForgetDevice: self._forget_device,
            MeasureDeviceMemory: self._measure,
            MeasureMemory: self._measure_memory,
            CheckpointDevices: self._checkpoint,
            RestoreCheckpoint: self._restore_checkpoint,
            ObserveNode: self._observe,
            DialScheduler: self._dial,
            DialAgent: self._dial_agent,
            SendPiece: self._send_piece,
            WritePiece: self._memory.write_piece,
            Exit: self._exit,
        }

    @staticmethod
    def _now() -> Instant:
        return Instant(time.monotonic())

    # ------------------------------------------------------------------------------------------------ running

    async def run(self, ready: Callable[[], None]) -> str:
        """Serve until the end.

        Args:
            ready: Called when processes can connect.

        Returns:
            Why it ended.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        processes.adopt_orphans()
        processes.allow_descriptors()
        processes.prefer_as_victim(_OOM_SCORE)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.deliver, StopRequested(f"{signal.Signals(number).name} came"))
        loop.add_signal_handler(signal.SIGCHLD, self._child_ended)
        try:
            self.endpoint.listen(self._cluster.agent_socket)
            self._perform(self.core.start())
            self._set_timer()
            ready()
            loop.call_later(_LOGS_EVERY_S, self._keep_logs)
            return await self._ended
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                loop.remove_signal_handler(number)
            self._close()

    def deliver(self, event: Event) -> None:
        """Give an event to the core and carry out what it says. May be called from within: then it waits its turn."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                event = self._events.popleft()
                self._note(event)
                self._perform(self.core.handle(event, self._now()))
        finally:
            self._handling = False
        self._set_timer()

    def _note(self, event: Event) -> None:
        """Write down what people look for in the log, and forget what is gone."""
        if isinstance(event, ProcessExited | ForkFailed):
            self._forked_from.pop(event.worker_id, None)
            with contextlib.suppress(FileNotFoundError):
                self._socket_path(event.worker_id).unlink()
        elif isinstance(event, ZygoteDied):
            _logger.warning("the zygote of environment %s is gone: %s", event.environment, event.text)
            zygote = self._zygotes.pop(event.environment, None)
            if zygote is not None:
                self._ending_zygotes[zygote] = None
                self._after(self._measuring_thread.submit(zygote.reap), lambda _none: self._reaped(zygote))
            self._forked_from = {w: d for w, d in self._forked_from.items() if d != event.environment}
            self._child_ended()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            self._carry_out[type(action)](action)

    def _set_timer(self) -> None:
        deadline = self.core.next_deadline()
        if deadline == self._timer_at and self._timer is not None:
            return
        loop = IOLoop.current()
        if self._timer is not None:
            loop.remove_timeout(self._timer)
            self._timer = None
        self._timer_at = deadline
        if deadline is not None and self._ended is not None and not self._ended.done():
            self._timer = loop.call_later(max(0.0, deadline - self._now()), self._deadline_reached)

    def _deadline_reached(self) -> None:
        self._timer = None
        self.deliver(DeadlineReached())

    def _after(self, work: Future[Any], then: Callable[[Any], None]) -> None:
        """Call `then` on the loop with what a thread returned."""
        loop = asyncio.get_running_loop()

        def done(finished: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the agent with it
                loop.call_soon_threadsafe(then, finished.result())

        work.add_done_callback(done)

    # --------------------------------------------------------------------------------------------- connections

    def _send_with_segments(self, action: SendWithSegments) -> None:
        descriptors = [
            self._memory.descriptor(segment_id, writable=writable) for segment_id, writable in action.segments
        ]
        self.endpoint.send(action.peer, action.message, descriptors)

    def _close_peer(self, action: ClosePeer) -> None:
        _logger.warning("a connection is closed: %s", action.cause)
        self.endpoint.close_peer(action.peer)

    def _dial(self, _action: DialScheduler) -> None:
        self._dialling = asyncio.get_running_loop().create_task(self._dial_until_there())

    async def _dial_until_there(self) -> None:
        while True:
            try:
                await self.endpoint.dial(self._cluster.scheduler_socket)
            except (AuthenticationError, VersionMismatchError) as error:
                self.deliver(StopRequested(f"the scheduler and this agent do not belong together: {error}"))
                return
            except AtollError:
                await asyncio.sleep(_DIAL_AGAIN_S)
            else:
                return

    def _dial_agent(self, action: DialAgent) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_agent(action))
        self._dials[task] = None
        task.add_done_callback(lambda done: self._dials.pop(done, None))

    async def _connect_agent(self, action: DialAgent) -> None:
        try:
            peer = await self.endpoint.dial(action.path)
        except AtollError as error:
            self.deliver(AgentUnreachable(action.node_id, f"its node does not answer: {error}"))
            return
        identity = self.endpoint.identity_of(peer)
        if identity is None or identity.process_id != action.node_id:
            self.deliver(AgentUnreachable(action.node_id, "another node answers in its place"))

    def _send_piece(self, action: SendPiece) -> None:
        self.endpoint.send(action.peer, ObjectPiece(action.request, self._memory.read_piece(action)))

    # ------------------------------------------------------------------------------------------------- workers

    def _start_zygote(self, action: StartZygote) -> None:
        try:
            self._zygotes[action.digest] = ZygoteProcess(
                action.digest,
                action.environment,
                self._logs.zygote_path(action.digest),
                self._worker_module,
                self.deliver,
                lambda worker_id: self._logs.worker_paths(worker_id)[1],
                self._directory / "packages",
            )
        except OSError as error:
            text = why_not_started(action.environment, error)
            self._events.append(ZygoteDied(action.digest, RuntimeEnvSetupError.__name__, text))

    def _stop_zygote(self, action: StopZygote) -> None:
        zygote = self._zygotes.pop(action.digest, None)
        if zygote is None:
            return
        zygote.stop()
        self._ending_zygotes[zygote] = None
        self._after(self._measuring_thread.submit(zygote.reap), lambda _none: self._reaped(zygote))

    def _reaped(self, zygote: ZygoteProcess) -> None:
        self._ending_zygotes.pop(zygote, None)
        self._child_ended()

    def _fork_worker(self, action: ForkWorker) -> None:
        zygote = self._zygotes.get(action.environment)
        if zygote is None:
            return  # it could not be started: its ZygoteDied is on the way and covers this worker
        self._forked_from[action.worker_id] = action.environment
        output_path, error_path = self._logs.worker_paths(action.worker_id)
        start = WorkerStart(
            worker_id=action.worker_id,
            node_id=self.node.node_id,
            agent_socket=self._cluster.agent_socket,
            scheduler_socket=self._cluster.scheduler_socket,
            socket_path=str(self._socket_path(action.worker_id)),
            key=self._key,
            environment=action.environment,
        )
        variables: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": ",".join(action.devices)}
        locks = self._locks.descriptors(action.devices) if self._locks is not None else []
        zygote.fork(Fork(start, variables, action.threads, output_path, error_path, action.urgent), locks)

    def _socket_path(self, worker_id: bytes) -> Path:
        return self._directory / "workers" / f"{worker_id.hex()}.sock"

    def _kill_worker(self, action: KillWorker) -> None:
        zygote = self._zygotes.get(self._forked_from.get(action.worker_id, ""))
        if zygote is not None:
            zygote.kill(action.worker_id)

    def _child_ended(self) -> None:
        """Kill and reap what has become this process's child because its zygote died."""
        zygotes = {zygote.pid for zygote in (*self._zygotes.values(), *self._ending_zygotes)}
        orphans = [pid for pid in processes.children(os.getpid()) if pid not in zygotes]
        for pid in orphans:
            processes.kill([*processes.descendants(pid), pid])
            processes.reap(pid)

    # ------------------------------------------------------------------------------------------------ measuring

    def _claim_devices(self, action: ClaimDevices) -> None:
        self._after(self._measuring_thread.submit(self._monitor.claim, action), self.deliver)

    def _unlock_devices(self, action: UnlockDevices) -> None:
        """In the same thread as claims, so that what is claimed anew is not let go of."""
        self._measuring_thread.submit(self._monitor.unlock, action.uuids)

    def _remember_device(self, action: RememberDevice) -> None:
        """At once, so that it is written before anybody hears of it: some bytes, three times in ten minutes at most."""
        assert self._records is not None, "what fails is a device"
        self._records.remember(action.record)

    def _forget_device(self, action: ForgetDevice) -> None:
        if self._records is not None:
            self._records.forget(action.uuid)

    def _measure(self, action: MeasureDeviceMemory) -> None:
        work = self._measuring_thread.submit(self._monitor.measure, action.lease_id, action.uuids, action.worker_pid)
        self._after(work, self.deliver)

    def _checkpoint(self, action: CheckpointDevices) -> None:
        work = self._checkpoint_threads.submit(self._checkpoints.give_up, action.pid)
        self._after(work, lambda text: self.deliver(DevicesCheckpointed(action.lease_id, text)))

    def _restore_checkpoint(self, action: RestoreCheckpoint) -> None:
        work = self._checkpoint_threads.submit(self._checkpoints.take_back, action.pid)
        self._after(work, lambda text: self.deliver(DevicesCheckpointed(action.lease_id, text)))

    def _measure_memory(self, action: MeasureMemory) -> None:
        """In a thread of its own: a driver that is slow to tell of its devices must not let somebody fill the host."""
        self._after(self._memory_thread.submit(measure_memory, self._host_memory, action.workers), self.deliver)

    def _observe(self, action: ObserveNode) -> None:
        self._after(self._measuring_thread.submit(self._monitor.observe, action.workers, action.held), self.deliver)

    def _keep_logs(self) -> None:
        living = {worker.worker_id.hex() for worker in self.core.pool.workers()}

        def work() -> None:
            try:
                self._logs.rotate()
                self._logs.prune(living)
            except OSError as error:
                _logger.warning("the workers' logs cannot be rotated: %s", error)

        self._after(self._measuring_thread.submit(work), lambda _none: None)
        asyncio.get_running_loop().call_later(_LOGS_EVERY_S, self._keep_logs)

    # -------------------------------------------------------------------------------------------------- the end

    def _exit(self, action: Exit) -> None:
        _logger.info("the node agent ends: %s", action.cause)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(action.cause)

    def _close(self) -> None:
        """End everything that this agent started. Blocks for as long as that takes, at most some seconds."""
        for task in (self._dialling, *self._dials):
            if task is not None:
                task.cancel()
        if self._timer is not None:
            IOLoop.current().remove_timeout(self._timer)
        self.endpoint.close()
        zygotes = [*self._zygotes.values(), *self._ending_zygotes]
        for zygote in zygotes:
            zygote.stop()
        for zygote in zygotes:
            zygote.reap(_END_WITHIN_S)
        if not processes.kill_descendants(_END_WITHIN_S):
            _logger.error("some processes that workers started do not end")
        for worker_id in self._forked_from:
            with contextlib.suppress(FileNotFoundError):
                self._socket_path(worker_id).unlink()
        self._memory.close()
        self._measuring_thread.shutdown()
        self._memory_thread.shutdown()
        self._checkpoint_threads.shutdown()
        if self._locks is not None:
            self._locks.close()
        self._provider.close()


def describe_node(cluster: ClusterFile, settings: Settings, provider: Provider, name: str = "") -> NodeDescription:
    """Return what this node is and offers."""
    devices = provider.devices()
    return NodeDescription(
        node_id=new_process_id(),
        name=name or cluster.host,
        pid=os.getpid(),
        agent_socket=cluster.agent_socket,
        resources=amounts_of(
            {CPU: settings.num_cpus, MEMORY: settings.memory_bytes, GPU: len(devices), **settings.resources}
        ),
        devices=devices,
        labels=dict(settings.labels),
        store_capacity_bytes=settings.store_capacity_bytes,
        stays=not name,
    )

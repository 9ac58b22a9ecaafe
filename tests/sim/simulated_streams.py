"""SIMULATED generators in a worker: what `nodeagent.streams` does, in virtual time, with its own `Flow`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atoll.client.core.records import STREAMING
from atoll.ids import TaskId, return_id
from atoll.nodeagent.streams import Flow
from atoll.protocol.channel_messages import (
    INLINE_BYTES,
    CallMethod,
    CloseStream,
    OpenStream,
    ReadStream,
    RunTask,
    TaskStored,
    TaskYielded,
)
from atoll.protocol.machine import Peer
from atoll.protocol.values import ObjectLocation
from tests.sim.programs import Code, Command, Hold, Sleep
from tests.sim.values import Plan, Value, encode

if TYPE_CHECKING:
    from tests.sim.worker_process import WorkerProcess


class Reader(Command):
    """The reader of a stream has taken more, or is gone."""

    def __init__(self, streams: SimulatedStreams, key: tuple[Peer, int]) -> None:
        self._streams = streams
        self._key = key

    def begin(self, process: Any, wake: Callable[[Any], None]) -> None:
        """Have `wake` called then."""
        self._streams.waiting[self._key] = wake


class SimulatedStreams:
    """The streams of a worker.

    Args:
        worker: Whose.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._flows: dict[tuple[Peer, int], Flow] = {}
        self.waiting: dict[tuple[Peer, int], Callable[[Any], None]] = {}

    def take(self, peer: Peer, message: OpenStream | ReadStream | CloseStream) -> None:
        """Take a message about a stream."""
        key = (peer, message.sequence)
        if isinstance(message, OpenStream):
            self._flows[key] = Flow(message)
            return
        flow = self._flows.get(key)
        if flow is None:
            return
        if isinstance(message, ReadStream):
            flow.taken = max(flow.taken, message.taken)
        else:
            flow.closed = True
        self._wake(key)

    def _wake(self, key: tuple[Peer, int]) -> None:
        wake = self.waiting.pop(key, None)
        if wake is not None:
            wake(None)

    def forget(self, peer: Peer, sequence: int) -> None:
        """A task will not run here."""
        self._flows.pop((peer, sequence), None)

    def caller_lost(self, peer: Peer) -> None:
        """Nobody reads the streams of a lost caller."""
        for key, flow in list(self._flows.items()):
            if key[0] == peer:
                flow.closed = True
                self._wake(key)

    def run(self, peer: Peer, message: RunTask | CallMethod, plan: Plan, caller: bytes, fails: bool) -> Code:
        """Send the values of a plan, and return whether it fails and, if not, the last answer."""
        worker = self._worker
        key = (peer, message.sequence)
        flow = self._flows.setdefault(key, Flow(OpenStream(message.sequence)))
        task_id = TaskId(message.task_id)
        program = worker._program
        for index, size in enumerate(plan.sizes):
            if flow.must_wait(index):
                with worker.blocking():
                    if program is not None:
                        program.interruptible = True
                    while flow.must_wait(index):
                        yield Reader(self, key)
                    if program is not None:
                        program.interruptible = False
            if flow.closed:
                break
            if fails and index == len(plan.sizes) // 2:
                if plan.failing == "crash":
                    worker.simulation.crash(worker)
                    yield Sleep(0.0)
                self.forget(peer, message.sequence)
                return None
            yield Sleep(plan.duration_s / len(plan.sizes))
            if flow.wants(index):
                answer = yield from self._yielded(message, return_id(task_id, index + 1), index, size, caller)
                if answer is None:
                    self.forget(peer, message.sequence)
                    return None
                if worker.process_of(peer):
                    worker.send(peer, answer)
        self.forget(peer, message.sequence)
        assert message.returns == STREAMING, "only streams are simulated"
        whole = ObjectLocation(return_id(task_id, 0), inline=encode(Value(return_id(task_id, 0), [], 10)))
        return TaskStored(message.sequence, [whole], [[]], 5)

    def _yielded(self, message: RunTask | CallMethod, object_id: bytes, index: int, size: int, caller: bytes) -> Code:
        worker = self._worker
        inside = []
        if index % 2:
            put = yield from worker.put(10)
            inside = [put] if put is not None else []
            del put
        refs = [ref.binary() for ref in inside]
        value = Value(object_id, refs, size)
        if size <= INLINE_BYTES:
            location = ObjectLocation(object_id, inline=encode(value))
        else:
            error = yield from worker.store.write(value, keep=False, attempt=message.attempt)
            if error:
                return None
            location = ObjectLocation(object_id, worker.node_id, size)
        yield Hold([name for name in refs if not name.startswith(caller)], caller)
        del inside
        return TaskYielded(message.sequence, index, location, refs)

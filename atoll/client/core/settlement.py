"""How tasks end: values and errors reach their objects, and whoever waits for those is told.

Three kinds of waiters: threads of this process (`AnnounceObjects`), other processes that fetch (`ObjectValue`), and
tasks that take the object as an argument (they become ready, or fail with the same error).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atoll import exceptions
from atoll.client.core.links import Outbox
from atoll.client.core.objects import ObjectTable
from atoll.client.core.records import FAILED, INLINE, PENDING, STORED, ObjectEntry, TaskRecord
from atoll.ids import return_id
from atoll.protocol.channel_messages import ObjectValue, TaskRaised, TaskStored
from atoll.protocol.machine import Peer
from atoll.protocol.serialization import serialize
from atoll.protocol.values import MemoryLoss, ObjectLocation


def error_payload(kind: str, text: str) -> bytes:
    """Return a pickled exception of `atoll.exceptions` by the name of its class; an unknown name is an AtollError."""
    made = getattr(exceptions, kind, exceptions.AtollError)(text)
    return serialize(made).data


class Settlement:
    """Ends tasks and tells who waits.

    Args:
        objects: Where values go.
        outbox: Where actions go.

    Attributes:
        fetch: Called with a borrowed object that a task waits for; the composition sets it.
        kept: Called with a task and the ids of its results that are in the store; the composition sets it.
        ran_again: Called with a task that is over and ran for lost results, if others were lost meanwhile; likewise.
        stream_ended: Called with a streaming task that is over and its error, if it has one; the composition sets it.
        resume: Called with a task whose last dependency has got its value, and with a call that has failed by one;
            the composition sets it.
    """

    def __init__(self, objects: ObjectTable, outbox: Outbox) -> None:
        self._objects = objects
        self._outbox = outbox
        self.resume: Callable[[TaskRecord], None] = lambda _record: None
        self.fetch: Callable[[bytes], None] = lambda _object_id: None
        self.kept: Callable[[TaskRecord, list[bytes]], None] = lambda _record, _object_ids: None
        self.ran_again: Callable[[TaskRecord], None] = lambda _record: None
        self.stream_ended: Callable[[TaskRecord, bytes], None] = lambda _record, _error: None

    def returned(self, record: TaskRecord, value: bytes) -> None:
        """End a task that returned one small value."""
        object_id = record.result_id
        entry = self._objects.entries.get(object_id)
        record.keepalive = None
        if entry is None:
            return
        entry.state = INLINE
        entry.value = value
        entry.producer = None
        if record.pushes > 1:
            self._objects.give_back(object_id)
        if entry.watched or entry.dependents or entry.askers:
            self.announce(object_id, entry)
        if not entry.count:
            self._objects.forget_if_unused(object_id, entry)

    def stored(self, record: TaskRecord, answer: TaskStored) -> None:
        """End a task that returned something else than one small value."""
        self._values_came(record, answer)
        record.keepalive = None
        if record.stream is not None:
            self.stream_ended(record, b"")
        self._look_for_late(record)

    def _look_for_late(self, record: TaskRecord) -> None:
        if record.rerun is not None and record.rerun.late:
            self.ran_again(record)

    def raised(self, record: TaskRecord, answer: TaskRaised) -> None:
        """End a task that raised: what it had returned until then stays, the rest becomes the error."""
        self._values_came(record, answer)
        self._refuse_refs(answer.contained[len(answer.values) :])
        self.failed(record, answer.error, begin=len(answer.values))

    def tried_again(self, answer: TaskRaised) -> None:
        """Give up what came with an error that is nobody's: the next attempt stores its own values in their place."""
        self._refuse_refs(answer.contained)

    def _refuse_refs(self, contained: list[list[bytes]]) -> None:
        for inside in contained:
            self._objects.refuse_refs(inside)

    def _values_came(self, record: TaskRecord, answer: TaskStored | TaskRaised) -> None:
        stays = record.rerun.kept if record.rerun is not None else ()
        stored = []
        for index, location in enumerate(answer.values):
            if index not in stays:
                self.resolved(location, answer.contained[index])
                if location.node_id:
                    stored.append(location.object_id)
                elif record.pushes > 1:
                    self._objects.give_back(location.object_id)
        if stored:
            self.kept(record, stored)

    def resolved(self, location: ObjectLocation, contained: list[bytes]) -> None:
        """Give an object its value."""
        entry = self._objects.resolve(location.object_id, location, contained)
        if entry is not None:
            self.announce(location.object_id, entry)
            self._objects.forget_if_unused(location.object_id, entry)

    def failed(self, record: TaskRecord, error: bytes, *, begin: int = 0, broke_off: bool = False) -> None:
        """End a task with an error: all its return values from `begin` on become that error.

        With `broke_off` it has not said itself how it ended: its worker died, or it was cancelled.
        """
        if record.sequence and (broke_off or record.pushes > 1 or record.returns > 1):
            self._give_back(record, begin)
        for index in range(begin, max(1, record.returns)):
            self.broken(return_id(record.task_id, index), error)
        record.keepalive = None
        if record.stream is not None:
            self.stream_ended(record, error)
        self._look_for_late(record)

    def _give_back(self, record: TaskRecord, begin: int) -> None:
        """Have the store forget what attempts of a task may have written that nobody has heard of."""
        stream, stays = record.stream, record.rerun.kept if record.rerun is not None else ()
        if stream is None:
            for index in range(begin, record.returns):
                if index not in stays:
                    self._objects.give_back(return_id(record.task_id, index))
        elif stream.replayed is None:
            self._objects.give_back(return_id(record.task_id, stream.received + 1))

    def failed_with(self, record: TaskRecord, kind: str, text: str) -> None:
        """As `failed`, with an exception made here."""
        self.failed(record, error_payload(kind, text), broke_off=True)

    def crashed(self, record: TaskRecord, text: str) -> None:
        """As `failed`, for a task whose process has died."""
        if record.attempt:
            advice = f"It was tried {record.attempt + 1} times; max_retries= says how often"
        else:
            advice = "Run it again, or have that done with max_retries=2"
        made = exceptions.WorkerCrashedError(text, advice)
        self.failed(record, serialize(made).data, broke_off=True)

    def actor_died(self, record: TaskRecord, text: str, cause: str) -> None:
        """As `failed`, for a call of an actor that is dead.

        Args:
            record: The call.
            text: What it called.
            cause: Why the actor is dead.
        """
        crash, _, how = cause.partition("WorkerCrashedError: ")
        if crash or not how:
            self.failed_with(record, "ActorDiedError", f"{text}: {cause}")
            return
        advice = "max_restarts=1 has such an actor made anew, max_task_retries=1 its calls tried again"
        made = exceptions.ActorDiedError(f"{text}: the actor is dead: {how}", None, advice)
        self.failed(record, serialize(made).data, broke_off=True)

    def out_of_memory(self, record: TaskRecord, text: str, loss: MemoryLoss) -> None:
        """As `failed`, for a task whose process ran out of memory."""
        made = exceptions.OutOfMemoryError(text, loss.used_bytes, loss.asked_bytes, loss.advised_bytes)
        self.failed(record, serialize(made).data, broke_off=True)

    def broken(self, object_id: bytes, error: bytes) -> None:
        """Make an object an error."""
        entry = self._objects.fail(object_id, error)
        if entry is not None:
            self.announce(object_id, entry)
            self._objects.forget_if_unused(object_id, entry)

    def announce(self, object_id: bytes, entry: ObjectEntry) -> None:
        """Tell everybody who waits for an object that has got a value or an error."""
        if entry.watched:
            entry.watched = False
            self._outbox.announced.append(object_id)
        if entry.askers:
            askers, entry.askers = entry.askers, None
            for peer, request in askers:
                self.answer(peer, request, object_id, entry)
        if entry.dependents:
            dependents, entry.dependents = entry.dependents, None
            for record in dependents:
                self._one_dependency_less(record, entry)

    def answer(self, peer: Peer, request: int, object_id: bytes, entry: ObjectEntry) -> None:
        """Answer a process that fetches a resolved object."""
        if entry.state == FAILED:
            assert isinstance(entry.value, bytes)
            self._outbox.send(peer, ObjectValue(request, None, entry.value))
        else:
            self._outbox.send(peer, ObjectValue(request, self._objects.location(object_id)))

    @property
    def several_nodes(self) -> bool:
        """Whether something is known to be on another node than this process."""
        return self._objects.several_nodes

    def note_node(self, node_id: bytes) -> None:
        """A worker on some node is ours."""
        if node_id != self._objects.home and self._objects.home:
            self._objects.several_nodes = True

    @property
    def entries(self) -> dict[bytes, ObjectEntry]:
        """All that is known of objects."""
        return self._objects.entries

    def has_values(self, names: list[bytes]) -> bool:
        """Whether objects that were there when a task became ready are still: they may have been lost meanwhile."""
        entries = self._objects.entries
        return all(entries[object_id].state in (INLINE, STORED) for object_id in names)

    def wait_for_dependencies(self, record: TaskRecord) -> bool:
        """Note a task at the objects that it waits for. True if it waits, or has failed because one of them has."""
        missing = []
        for object_id in dict.fromkeys(record.dependencies or ()):
            entry = self._objects.entries[object_id]
            if entry.state == FAILED:
                assert isinstance(entry.value, bytes)
                self.failed(record, entry.value)
                return True
            if entry.state == PENDING:
                missing.append(entry)
                if entry.producer is None and not self._objects.owns(object_id):
                    self.fetch(object_id)
        for entry in missing:
            entry.dependents = [*(entry.dependents or ()), record]
        record.unresolved = len(missing)
        return bool(missing)

    def first_failure(self, names: Iterable[bytes]) -> bytes | None:
        """Return the error of the first of these objects that has failed, or None."""
        for object_id in names:
            entry = self._objects.entries[object_id]
            if entry.state == FAILED:
                assert isinstance(entry.value, bytes)
                return entry.value
        return None

    def location(self, object_id: bytes) -> ObjectLocation:
        """Return where an object that has a value is."""
        return self._objects.location(object_id)

    def _one_dependency_less(self, record: TaskRecord, entry: ObjectEntry) -> None:
        if record.unresolved <= 0:
            return  # it has failed already, by another dependency, or was cancelled
        if entry.state == FAILED:
            assert isinstance(entry.value, bytes)
            record.unresolved = -1
            self.failed(record, entry.value)
            if record.actor_id:
                self.resume(record)  # calls that were made after it have waited behind it
        else:
            record.unresolved -= 1
            if record.unresolved == 0:
                self.resume(record)

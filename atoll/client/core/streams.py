"""Generators that run elsewhere: values come one by one, while the task goes on.

    next value pending ──TaskYielded──▶ there, and another one is pending behind it ──▶ ... ──▶ end, or an error and end

Every value is an object of its own (`item_id`); the task's own object tells how the whole went. There is always one
entry more than there are values: the next one, which is pending until it comes or the end does. So whoever wants the
next value waits for an object, as for every other, and waits of all kinds and timeouts hold for streams too.

The stream counts for the values that nobody has taken; taking one passes the count on. When the stream is dropped they
go, and the generator is closed where it runs, at its next `yield`.

A reader that is slower than the generator can bound what waits: the worker is told how many were taken
(`ReadStream`), and waits when `limit` are not.

A task that runs again, since its worker died, says again only what has not come.
"""

from __future__ import annotations

from collections.abc import Iterator

from atoll.client.core.links import Link, Outbox
from atoll.client.core.objects import ObjectTable
from atoll.client.core.records import DYNAMIC, END, FAILED, PENDING, Stream, TaskRecord
from atoll.client.core.settlement import Settlement, error_payload
from atoll.ids import ObjectId, return_id
from atoll.protocol.channel_messages import CloseStream, ReadStream, TaskYielded


def item_id(stream: Stream, index: int) -> ObjectId:
    """Return the id of a value, counted from 0: the task's own object is return value 0."""
    return return_id(stream.record.task_id, index + 1)


class Streams:
    """All streams of a client.

    Args:
        outbox: Where actions go.
        objects: Where values go.
        settlement: Tells who waits.
    """

    def __init__(self, outbox: Outbox, objects: ObjectTable, settlement: Settlement) -> None:
        self._outbox = outbox
        self._objects = objects
        self._settlement = settlement

    def begin(self, record: TaskRecord) -> None:
        """Expect a new task's values."""
        assert record.stream is not None
        self._objects.expect(return_id(record.task_id, 0), record)
        self._objects.streams[record.stream.handle] = record.stream
        self._expect_next(record.stream)

    def _expect_next(self, stream: Stream) -> None:
        self._objects.expect(item_id(stream, stream.received), stream.record)

    def yielded(self, link: Link, message: TaskYielded) -> None:
        """Take a value."""
        record = link.outstanding.get(message.sequence)
        stream = record.stream if record is not None else None
        object_id = message.value.object_id
        if stream is None or stream.closed:
            self._objects.refuse(message.value, message.contained)
            return
        if stream.replayed is not None:
            if message.index in stream.replayed and not message.error:
                self._settlement.resolved(message.value, message.contained)
                self._settlement.kept(stream.record, [object_id])
            else:
                self._objects.refuse_refs(message.contained)
            return
        if message.index < stream.received:
            self._objects.refuse_refs(message.contained)  # it has come before, from an earlier attempt
            return
        assert message.index == stream.received, f"value {message.index} of {record} comes after {stream.received}"
        stream.received += 1
        self._expect_next(stream)
        if message.error:
            self._settlement.broken(object_id, message.error)
        else:
            self._settlement.resolved(message.value, message.contained)
            if message.value.node_id:
                self._settlement.kept(stream.record, [object_id])

    def take(self, stream: Stream) -> None:
        """Pass the next value's count on to a ref. The caller has seen that it is there, and is not the end."""
        entry = self._objects.entries[item_id(stream, stream.taken)]
        assert entry.state != PENDING, "a value is taken when it is there"
        assert entry.state != FAILED or entry.value != END, "nothing is behind the end"
        stream.taken += 1
        peer = stream.record.peer
        if stream.limit and peer is not None and not stream.ended:
            self._outbox.send(peer, ReadStream(stream.record.sequence, stream.taken))

    def ended(self, record: TaskRecord, error: bytes) -> None:
        """The task is over: the next value is its error, if it has one, and behind that is the end."""
        stream = record.stream
        assert stream is not None
        if stream.ended:
            return
        stream.ended = True
        if stream.replayed is not None:
            self._replayed(stream, error)
        if stream.closed or stream.replayed is not None:
            return
        pending = item_id(stream, stream.received)
        if error:
            stream.received += 1
            self._expect_next(stream)
            self._settlement.broken(pending, error)
            pending = item_id(stream, stream.received)
        self._settlement.broken(pending, END)
        if record.returns == DYNAMIC:
            self._objects.release(stream.handle)
            self.close_dropped()

    def _replayed(self, stream: Stream, error: bytes) -> None:
        """What has not come again although the task has run again is lost."""
        for index in stream.replayed or ():
            rerun = stream.record.rerun
            if rerun is not None and item_id(stream, index) in rerun.late:
                continue  # it had come, and was lost again
            entry = self._objects.entries.get(item_id(stream, index))
            if entry is not None and entry.state == PENDING:
                text = f"value {index} of {stream.record.name} was lost, and it did not yield it again"
                missing = error_payload("StreamingGeneratorReplayInconsistentError", text)
                self._settlement.broken(item_id(stream, index), error or missing)

    def check_invariants(self) -> Iterator[str]:
        """Yield a line for each stream without a next value to wait for."""
        for stream in self._objects.streams.values():
            entry = self._objects.entries.get(item_id(stream, stream.received))
            if entry is None or (entry.state == PENDING) == stream.ended:
                state = None if entry is None else entry.state
                yield f"the stream of {stream.record} has a next value of state {state}, ended is {stream.ended}"

    def close_dropped(self) -> list[TaskRecord]:
        """Let go of what was not taken of streams that nobody reads any more.

        Returns:
            Tasks that were not pushed yet: there is nobody to run them for.
        """
        dropped, self._objects.dropped_streams = self._objects.dropped_streams, []
        unwanted = []
        for stream in dropped:
            stream.closed = True
            for index in range(stream.taken, stream.received + 1):
                self._objects.release(item_id(stream, index))
            record = stream.record
            if not stream.ended and record.peer is not None:
                record.cancelled = True  # if its worker dies, it is not tried again
                self._outbox.send(record.peer, CloseStream(record.sequence))
            elif not stream.ended:
                unwanted.append(record)
        return unwanted

"""What the client remembers of a task and of an object.

Both are made by the hundred thousand: as structs they are made in C, at a third of the cost of an `__init__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from atoll.ids import NO_OBJECT, ObjectId, TaskId, return_id
from atoll.protocol.machine import Peer
from atoll.protocol.values import ObjectLocation

OutputCallback = Callable[[str, bytes], None]


STREAMING = -1
"""In the place of a number of returns: a generator's values come one by one."""

DYNAMIC = -2
"""Likewise, and its one return value has refs to all of them."""

END = b""
"""In the place of an error: a stream has no more values."""

_HANDLE_INDEX = 0xFFFFFFFF


class Stream:
    """The values of a generator that runs elsewhere: see `streams`.

    Attributes:
        record: Its task.
        limit: So many values may wait to be taken; 0 for any number.
        received: Values that have come.
        taken: Values that were taken.
        ended: The task is over.
        closed: Nobody reads it any more.
        replayed: Values that were lost and are to come again, by number, if the task runs again for them.
    """

    __slots__ = ("closed", "ended", "limit", "received", "record", "replayed", "taken")

    def __init__(self, record: TaskRecord, limit: int, replayed: list[int] | None = None) -> None:
        self.record = record
        self.limit = limit
        self.received = 0
        self.taken = 0
        self.ended = False
        self.closed = False
        self.replayed = replayed

    @property
    def handle(self) -> bytes:
        """The id that is released when nobody reads the stream any more: of no object."""
        return return_id(self.record.task_id, _HANDLE_INDEX)


class Rerun(NamedTuple):
    """What there is to know of a task that has ended and runs again for results that were lost: see `lineage`.

    Attributes:
        kept: Which of its return values have stayed, or nobody wants any more: they are not made again.
        late: Ids of others of its results that were lost while it ran, and are not made by this run.
    """

    kept: list[int]
    late: list[bytes]


class Manner(NamedTuple):
    """How calls of a method are made, where it is not the usual way.

    Attributes:
        method: The method, if the record's name is another, for people.
        group: The concurrency group that runs it, if not the method's own.
        any_order: Whether it may overtake calls that wait for their arguments.
        retried: The pickled classes of exceptions after which it may be made again, if they are not the method's own.
    """

    method: str = ""
    group: str = ""
    any_order: bool = False
    retried: bytes = b""


class TaskRecord(msgspec.Struct, eq=False):
    """A task or call that was submitted and has not ended.

    Attributes:
        task_id: Its id; return values have ids made from it.
        result_id: Of the first return value.
        name: Function or method, for people.
        function: Digest of the function; empty for a call.
        actor_id: The actor that is called; empty for a task.
        arguments: Pickled.
        dependencies: Ids of top-level `ObjectRef` arguments; replaced by their locations when it is pushed.
        returns: How many values; `STREAMING` or `DYNAMIC` for a generator's.
        class_key: The scheduling class, by the client's own number.
        retries_left: Attempts that may follow; -1 for without end.
        retry_exceptions: Whether an exception of the user's code is retried.
        manner: How a call is made; None for the usual way.
        inside: Ids of the refs inside of its arguments.
        keepalive: Whatever must live until it has ended: the refs in its arguments. None when it has ended.
        on_output: Takes what it emits.
        parent: The task that has submitted it; empty if none has.
        stream_limit: How many of a generator's values may wait to be taken; 0 for any number.
        stream: Its values, if they come one by one.
        unresolved: How many dependencies have no value yet.
        peer: The channel that it was pushed on.
        sequence: Its number there.
        pushes: How often it was pushed and may have begun. Earlier attempts may have left something in the store.
        rerun: If it has ended before, and runs again for a lost result.
        cancelled: The user wants it no more.
        alone: No other task may be on its worker together with it: it must not run twice, or it was on a worker that
            died, and it is to be known whether it was the cause.
    """

    task_id: TaskId
    name: str
    arguments: bytes
    function: bytes = b""
    actor_id: bytes = b""
    dependencies: list[bytes] | None = None
    returns: int = 1
    class_key: int = 0
    retries_left: int = 0
    retry_exceptions: bool = False
    manner: Manner | None = None
    inside: list[bytes] | None = None
    keepalive: Any = None
    on_output: OutputCallback | None = None
    parent: bytes = b""
    stream_limit: int = 0
    stream: Stream | None = None
    result_id: ObjectId = NO_OBJECT
    attempt: int = 0
    unresolved: int = 0
    peer: Peer | None = None
    sequence: int = 0
    pushes: int = 0
    rerun: Rerun | None = None
    cancelled: bool = False
    alone: bool = False

    def __post_init__(self) -> None:
        self.result_id = return_id(self.task_id, 0)
        self.alone = self.retries_left == 0
        if self.returns < 0:
            self.stream = Stream(self, self.stream_limit)

    @property
    def may_run_again(self) -> bool:
        """Whether there is a retry left."""
        return self.retries_left != 0

    def again(self) -> TaskRecord:
        """Return the next attempt of this task, which has ended; it costs a retry."""
        record = TaskRecord(
            self.task_id,
            self.name,
            self.arguments,
            function=self.function,
            dependencies=self.dependencies,
            returns=self.returns,
            class_key=self.class_key,
            retries_left=self.retries_left - 1 if self.retries_left > 0 else self.retries_left,
            retry_exceptions=self.retry_exceptions,
            on_output=self.on_output,
            parent=self.parent,
            inside=self.inside,
        )
        record.attempt = self.attempt + 1
        record.pushes = self.pushes
        return record

    def __repr__(self) -> str:
        return f"<task {self.name} {self.task_id.hex()[-6:]} attempt {self.attempt}>"


PENDING = 0
INLINE = 1
STORED = 2
FAILED = 3
TOKEN = 4
FREED = 5
"""Nobody refers to it and it has no value, but a task that may run again takes it: see `lineage`."""


class ObjectEntry(msgspec.Struct, eq=False):
    """An object that this process owns or has a ref to.

    Attributes:
        state: `PENDING`, `INLINE`, `STORED`, `FAILED`, `FREED`, or `TOKEN` for one that stands for an actor's handles.
        value: Pickled value, location, or pickled error, by state.
        count: Refs in this process, containers that contain it and tasks that take it.
        holders: Other processes that have refs; only at the owner.
        contained: Ids of the refs inside its value, counted at their entries.
        dependents: Tasks that wait for it to be dispatched.
        askers: Peers that fetch it, with their request numbers.
        watched: Whether somebody in this process waits for it.
        registrations: A borrower's: how often the owner was told of this process.
        fetching: A borrower's: whether the owner was asked for the value.
        producer: The task that computes it, while it does.
    """

    producer: TaskRecord | None = None
    state: int = PENDING
    value: bytes | ObjectLocation = b""
    count: int = 0
    holders: dict[bytes, int] | None = None
    contained: list[bytes] | None = None
    dependents: list[TaskRecord] | None = None
    askers: list[tuple[Peer, int]] | None = None
    watched: bool = False
    registrations: int = 0
    fetching: bool = False

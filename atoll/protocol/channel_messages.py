"""What is said on direct channels: from the process that submits tasks to the one that runs them, and back.

This is the hot path. Messages travel in batches: a frame's body is a msgpack array of them. Tags are small numbers,
fields are few, and what is the same for every call of a function (its code, its name) is said once.

    caller ─▶ worker     DeclareFunction RunTask CallMethod CancelTask TakeBackTasks OpenStream ReadStream CloseStream
    worker ─▶ caller     TaskReturned TaskStored TaskRaised TaskOutput TaskYielded TasksTakenBack WorkerRetires
    anybody ─▶ owner     FetchObject AddHold DropHolds
    owner ─▶ anybody     ObjectValue HoldAdded

A channel has one sequence of tasks: numbers grow by one, and a worker begins tasks of a channel in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from atoll.protocol.values import ObjectLocation

INLINE_BYTES = 100 * 1024
"""Values up to this size ride in messages; larger ones are objects in the store. Ray's limit, for the same trade."""


class DeclareFunction(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """The code of a function, said once on a channel, before its first `RunTask`.

    `payload` is the pickled function; `digest` is what tasks call it by. After `maximum_calls` of it the worker
    retires; 0 for never.
    """

    digest: bytes
    name: str
    payload: bytes
    maximum_calls: int = 0


class RunTask(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Run a function once.

    Attributes:
        sequence: The task's number on this channel.
        task_id: Its id; return values get ids made from it.
        function: Digest.
        arguments: Pickled `(args, kwargs)`, or empty for none at all.
        dependencies: The values of top-level `ObjectRef` arguments, in the order of their placeholders.
        returns: How many values; below zero for a generator's, of which `OpenStream` has told.
        kept: Which of them the caller has from an earlier run: these are not stored again, and nothing is said of them.
        attempt: How often it was sent, with this time: what an earlier attempt stores late does not replace what this
            one has stored.
    """

    sequence: int
    task_id: bytes
    function: bytes
    arguments: bytes
    dependencies: list[ObjectLocation] = []
    returns: int = 1
    kept: list[int] = []
    attempt: int = 0


class CallMethod(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Call a method of the actor that lives in the worker. Fields are as in `RunTask`, and:

    Attributes:
        group: The concurrency group that runs it; empty for the method's own.
        name: What people see; empty for the method's name.
        retried: The pickled classes of exceptions after which this call may be made again; empty for the method's own.
    """

    sequence: int
    task_id: bytes
    method: str
    arguments: bytes
    dependencies: list[ObjectLocation] = []
    returns: int = 1
    group: str = ""
    name: str = ""
    retried: bytes = b""
    attempt: int = 0


class CancelTask(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """Do not begin the task, or interrupt it; with `force`, end the process.

    `recursive` says that what the task has submitted itself is cancelled, too; `task_id` says which task it is.
    """

    sequence: int
    force: bool = False
    recursive: bool = True
    task_id: bytes = b""


class TakeBackTasks(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """Give back up to `count` tasks that have not begun, the last first: another worker is free."""

    count: int


class OpenStream(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """The task or call of this number, which comes next, is a generator: answer each value when it is yielded.

    Attributes:
        sequence: Of the task.
        limit: So many values may be untaken before the generator waits; 0 for any number.
        received: So many values have come from an earlier attempt and are not sent again.
        taken: So many of these were taken.
        replayed: Those that are sent again all the same, since they were lost.
    """

    sequence: int
    limit: int = 0
    received: int = 0
    taken: int = 0
    replayed: list[int] = []


class ReadStream(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """So many values of the task were taken, in all."""

    sequence: int
    taken: int


class CloseStream(msgspec.Struct, array_like=True, tag=8, frozen=True, gc=False):
    """Nobody reads the values of the task any more: close its generator."""

    sequence: int


class TaskReturned(msgspec.Struct, array_like=True, tag=11, frozen=True, gc=False):
    """The task returned one small value: the usual case.

    `value` is pickled, `microseconds` is how long the function ran.
    """

    sequence: int
    value: bytes
    microseconds: int


class TaskStored(msgspec.Struct, array_like=True, tag=12, frozen=True, gc=False):
    """The task returned several values, large ones, or values that contain refs.

    Attributes:
        sequence: The task.
        values: One location for each return value.
        contained: For each value, the ids of the refs inside; the caller has been registered as their holder.
        microseconds: How long the function ran.
    """

    sequence: int
    values: list[ObjectLocation]
    contained: list[list[bytes]]
    microseconds: int


class TaskRaised(msgspec.Struct, array_like=True, tag=13, frozen=True, gc=False):
    """The task raised.

    Attributes:
        sequence: The task.
        error: A pickled exception of `atoll.exceptions`.
        microseconds: How long the function ran.
        retry: Whether another attempt could end otherwise, which the caller's `retry_exceptions` decides about.
        values: Where the first of several return values are: a generator had yielded them before it raised.
        contained: For each of these, the ids of the refs inside; the caller has been registered as their holder. Also
            for values that do not count, since the task was cancelled.
    """

    sequence: int
    error: bytes
    microseconds: int
    retry: bool = True
    values: list[ObjectLocation] = []
    contained: list[list[bytes]] = []


class TaskOutput(msgspec.Struct, array_like=True, tag=14, frozen=True, gc=False):
    """A piece of what the task writes or shows while it runs, in order.

    `source` says, for people, what writes: function or class and process, of the task or of one that it has submitted.
    """

    sequence: int
    kind: str
    payload: bytes
    source: str = ""


class TasksTakenBack(msgspec.Struct, array_like=True, tag=15, frozen=True, gc=False):
    """These have not begun and will not: the answer to `TakeBackTasks`, also said unasked by a worker that waits."""

    sequences: list[int]


class WorkerRetires(msgspec.Struct, array_like=True, tag=16, frozen=True, gc=False):
    """Push nothing more: a function has been called here as often as it may be. What waits here is given back."""


class TaskYielded(msgspec.Struct, array_like=True, tag=17, frozen=True, gc=False):
    """A value of a generator, while it goes on.

    Attributes:
        sequence: The task.
        index: Which value, from 0, without gaps.
        value: Where it is.
        contained: The ids of the refs inside; the caller has been registered as their holder.
        error: A pickled exception instead of a value; empty for a value.
    """

    sequence: int
    index: int
    value: ObjectLocation
    contained: list[bytes]
    error: bytes = b""


class DependencyLost(msgspec.Struct, array_like=True, tag=18, frozen=True, gc=False):
    """The task did not begin: the store does not have these objects, which it takes."""

    sequence: int
    object_ids: list[bytes]


class FetchObject(msgspec.Struct, array_like=True, tag=21, frozen=True, gc=False):
    """Ask an object's owner for it. Answered by `ObjectValue` as soon as there is a value.

    `lost` says that it is not where the owner has said it is.
    """

    request: int
    object_id: bytes
    lost: bool = False


class ObjectValue(msgspec.Struct, array_like=True, tag=22, frozen=True, gc=False):
    """The object: a location, or a pickled error."""

    request: int
    location: ObjectLocation | None
    error: bytes = b""


class AddHold(msgspec.Struct, array_like=True, tag=23, frozen=True, gc=False):
    """The process `holder` has a ref to the object now. Answered by `HoldAdded`."""

    request: int
    object_id: bytes
    holder: bytes


class HoldAdded(msgspec.Struct, array_like=True, tag=24, frozen=True, gc=False):
    """The object stays until its holder drops it or dies."""

    request: int


class DropHolds(msgspec.Struct, array_like=True, tag=25, frozen=True, gc=False):
    """The sender has no ref to these any more."""

    object_ids: list[bytes]


ChannelMessage = (
    DeclareFunction
    | RunTask
    | CallMethod
    | CancelTask
    | TakeBackTasks
    | TaskReturned
    | TaskStored
    | TaskRaised
    | TaskOutput
    | TasksTakenBack
    | WorkerRetires
    | OpenStream
    | ReadStream
    | CloseStream
    | TaskYielded
    | DependencyLost
    | FetchObject
    | ObjectValue
    | AddHold
    | HoldAdded
    | DropHolds
)

encode_batch = msgspec.msgpack.Encoder().encode
"""Return the body of a frame for a list of channel messages."""

decode_batch: Callable[[bytes | memoryview], list[Any]] = msgspec.msgpack.Decoder(list[ChannelMessage]).decode
"""Return the channel messages of a frame's body, in order; `msgspec.DecodeError` if it is no such array."""

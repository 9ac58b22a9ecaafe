"""How far a cell has come, from its record: who has sent it, where each attempt began, how it ended.

So any notebook can ask about a cell by its number: `%why t42`.
"""

from __future__ import annotations

import msgspec

from atoll.kernel_ext.records import BEGIN, END, Ending, Head, RecordReader, read_ending, read_head

SENT = "sent"
"""The kind of a cell's first piece, from the kernel that waits for it; that of a background cell's is `begin`."""

ATTEMPT = "attempt"
"""The kind of the piece with which a worker begins."""

encode = msgspec.msgpack.Encoder().encode


class Sent(msgspec.Struct, array_like=True):
    """Who has sent a cell.

    Attributes:
        job: The session, as hex.
        label: What the cell is called.
        place: The notebook; empty where it is not known.
    """

    job: str
    label: str
    place: str = ""


class Attempt(msgspec.Struct, array_like=True):
    """Where a cell began.

    Attributes:
        node: The host.
        pid: The process.
        at: Seconds since 1970.
    """

    node: str
    pid: int
    at: float


class Course(msgspec.Struct):
    """How far a cell has come.

    Attributes:
        sent: By whom, if a kernel waits for it.
        head: What it is, if it is a background cell.
        attempts: Each time that it began.
        ending: How it ended; None if it has not.
    """

    sent: Sent | None = None
    head: Head | None = None
    attempts: list[Attempt] = []
    ending: Ending | None = None


def read_attempt(payload: bytes) -> Attempt:
    """Read the payload of an `attempt` piece."""
    return msgspec.msgpack.decode(payload, type=Attempt)


def course_of(reader: RecordReader) -> Course:
    """Read how far a cell has come."""
    course = Course()
    for _number, kind, payload in reader.pieces():
        if kind == SENT:
            course.sent = msgspec.msgpack.decode(payload, type=Sent)
        elif kind == BEGIN:
            course.head = read_head(payload)
        elif kind == ATTEMPT:
            course.attempts.append(read_attempt(payload))
        elif kind == END:
            course.ending = read_ending(payload)
    return course

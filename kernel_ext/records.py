"""What cells have shown, kept by the cluster: a file a cell, so that it outlives the browser's page and the kernel.

A kernel takes the next number (`t42`) for a cell that it sends. The worker writes each piece of output into the cell's
file, numbered, before it sends it; and at the end how the cell ended, with the frames of its error. Any notebook can
read it: `%logs t42` shows it, `%attach t42` goes on showing it until the cell has ended, `%tb t42` shows the error with
the values of the local variables.

    <session directory>/cells/t42      msgpack: [number, kind, payload] …; the last one's kind is `end`

What was too much to be shown is in it, too (`unshown …`); `%logs t42 all` shows that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from atoll.kernel_ext.cell_messages import AGAIN, UNSHOWN
from atoll.kernel_ext.worker_output import Emit

BEGIN = "begin"
"""The kind of a background cell's first piece: what it is, from the kernel that sent it."""

END = "end"
LOST = "lost"
"""The kind of a piece that stands for those which had no room."""

FIRST_PIECES = 3
"""What a cell is stands among its first pieces, so many at most."""

KEPT_CELLS = 200
"""So many cells are kept, and so many background cells; the files of older ones are removed."""

MAXIMUM_BYTES = 16 * 2**20
"""Of one cell's output, and as much again of what was not shown of it."""

LOOK_EVERY = 50
"""A kernel looks at the directory, and removes old files, once in so many cells."""

_last: dict[str, int] = {}

_encode = msgspec.msgpack.Encoder().encode


class Frame(msgspec.Struct, array_like=True):
    """One frame of an error.

    Attributes:
        place: `Cell In[3], line 2` or a file and line.
        function: Its name.
        names: Its local variables and what they were, as short text.
    """

    place: str
    function: str
    names: dict[str, str]


class Ending(msgspec.Struct, array_like=True):
    """How a cell ended.

    Attributes:
        status: `done` or `failed`.
        traceback: As the notebook showed it.
        frames: Of the error, the outermost first.
        kind: The error's class.
        text: The error's text.
        names: What the cell has set.
        seconds: How long it ran.
        where: The host and the process that ran it.
    """

    status: str
    traceback: list[str] = []
    frames: list[Frame] = []
    kind: str = ""
    text: str = ""
    names: list[str] = []
    seconds: float = 0.0
    where: str = ""


class Head(msgspec.Struct, array_like=True):
    """What a background cell is.

    Attributes:
        name: What it is called.
        label: What the cluster calls it.
        sent_at: Wall clock, seconds since 1970.
        host: The actor inside of which it runs; empty for a process of its own.
        waits_for: The cells that it waits for before it asks for resources, for people.
        notify: Whether the browser is to tell of its end.
    """

    name: str
    label: str
    sent_at: float
    host: str = ""
    waits_for: str = ""
    notify: bool = False


def directory_of(session_directory: str) -> Path:
    """Return where the files are."""
    return Path(session_directory) / "cells"


def new_record(session_directory: str) -> str:
    """Take the next number for a cell, and make its empty file."""
    directory = directory_of(session_directory)
    number = _last.get(session_directory, 0) + 1
    if number % LOOK_EVERY == 1:
        directory.mkdir(mode=0o700, exist_ok=True)
        numbers = sorted(int(entry.name[1:]) for entry in directory.iterdir() if entry.name[1:].isdigit())
        _remove_old(directory, numbers)
        number = numbers[-1] + 1 if numbers else 1
    while True:
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(directory / f"t{number}", flags, 0o600))
        except FileExistsError:  # another kernel was faster
            number += 1
        else:
            _last[session_directory] = number
            return f"t{number}"


def _remove_old(directory: Path, numbers: list[int]) -> None:
    """Remove the files of old cells; of background cells only those that have ended, and by a count of their own."""
    if len(numbers) <= KEPT_CELLS:
        return
    background = {number for number in numbers if BEGIN in _kinds(directory / f"t{number}", FIRST_PIECES)}
    others = [number for number in numbers if number not in background]
    old = [number for number in sorted(background)[:-KEPT_CELLS] if END in _kinds(directory / f"t{number}")]
    for number in others[:-KEPT_CELLS] + old:
        (directory / f"t{number}").unlink(missing_ok=True)


def _kinds(path: Path, first: int | None = None) -> list[str]:
    """Return the kinds of the pieces of a file, or of the first ones."""
    try:
        reader = RecordReader(str(path.parent.parent), path.name)
        return [kind for _number, kind, _payload in itertools.islice(reader.pieces(), first)]
    except FileNotFoundError:
        return []


def write_head(session_directory: str, record: str, head: Head) -> None:
    """Write what a background cell is, before it is sent."""
    append_piece(session_directory, record, BEGIN, _encode(head))


def head_of(session_directory: str, record: str) -> Head | None:
    """Return what a background cell is; None if there is no cell of that number, or it is no background cell."""
    try:
        pieces = itertools.islice(RecordReader(session_directory, record).pieces(), FIRST_PIECES)
        return next((read_head(payload) for _number, kind, payload in pieces if kind == BEGIN), None)
    except FileNotFoundError:
        return None


def has_ended(session_directory: str, record: str) -> bool:
    """Whether a cell's record tells of its end, or is gone."""
    path = directory_of(session_directory) / record
    return not path.exists() or END in _kinds(path)


def write_ending(session_directory: str, record: str, ending: Ending) -> None:
    """Write how a cell ended that no worker has begun or will end."""
    append_piece(session_directory, record, END, _encode(ending))


def append_piece(session_directory: str, record: str, kind: str, payload: bytes) -> None:
    """Write a piece into a cell's file, from a process that does not run the cell."""
    piece = _encode((0, kind, payload))
    with (directory_of(session_directory) / record).open("ab", 0) as file:
        file.write(len(piece).to_bytes(4, "little") + piece)


class Recorder:
    """Writes one cell's file, in the worker. Safe to use from several threads.

    Args:
        path: The file; it exists.
        emit: Sends a piece on.
    """

    def __init__(self, path: Path, emit: Emit) -> None:
        self._emit = emit
        self._number = 0
        self._room = self._unshown_room = MAXIMUM_BYTES
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):  # the record of an old cell may be gone; the cell runs all the same
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC), "ab", 0)

    def emit(self, kind: str, payload: bytes) -> None:
        """Write a piece, then send it."""
        if self._room > 0:
            self._room -= len(payload)
            self._write(kind if self._room > 0 else LOST, payload if self._room > 0 else b"")
        self._emit(kind, payload)

    def keep(self, kind: str, payload: bytes) -> None:
        """Write a piece that is not sent: what is too much to be shown."""
        if kind == AGAIN:
            self._write(kind, payload)
        elif self._unshown_room > 0:
            self._unshown_room -= len(payload)
            has_room = self._unshown_room > 0
            self._write(kind if has_room else UNSHOWN + LOST, payload if has_room else b"")

    def note(self, kind: str, payload: bytes) -> None:
        """Write a piece that is no output."""
        self._write(kind, payload)

    def end(self, ending: Ending) -> None:
        """Write how the cell ended."""
        self._write(END, _encode(ending))
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self, kind: str, payload: bytes) -> None:
        with self._lock:
            if self._file is None:
                return
            self._number += 1
            piece = _encode((self._number, kind, payload))
            with contextlib.suppress(OSError):  # a full disk must not stop the cell
                self._file.write(len(piece).to_bytes(4, "little") + piece)


class RecordReader:
    """Reads one cell's file, as far as it is written.

    Raises:
        FileNotFoundError: There is no such cell, or it is too long ago.
    """

    def __init__(self, session_directory: str, name: str) -> None:
        self._path = directory_of(session_directory) / name
        self._offset = 0
        self._path.stat()

    def pieces(self) -> Iterator[tuple[int, str, bytes]]:
        """Return what has come since the last call: number, kind and payload."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        start = 0
        while start + 4 <= len(data):
            size = int.from_bytes(data[start : start + 4], "little")
            if start + 4 + size > len(data):  # it is being written
                break
            yield msgspec.msgpack.decode(data[start + 4 : start + 4 + size], type=tuple[int, str, bytes])
            start += 4 + size
            self._offset += 4 + size


def read_ending(payload: bytes) -> Ending:
    """Read the payload of an `end` piece."""
    return msgspec.msgpack.decode(payload, type=Ending)


def read_head(payload: bytes) -> Head:
    """Read the payload of a `begin` piece."""
    return msgspec.msgpack.decode(payload, type=Head)

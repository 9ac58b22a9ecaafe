"""`queue=train`: cells of the whole cluster that run one after the other, in the order in which they were sent.

A queue is a name, the same in all notebooks. A cell that names it is sent at once and begins when those before it have
ended, however they ended: what was queued for the night is not lost with the first failure. What must not run after a
failure asks for the result of the cell before it.

Only background cells stand in a queue. A cell that a notebook waits for waits for those that are there, and holds up
nobody: whoever sits before it decides what is more urgent.

    <session directory>/queues/train      the numbers of the cells that are in it, a line each, the first sent first

It is a file as the cells' records are, so it outlives the kernels that write to it and goes with the cluster. A lock on
it gives the cells of several notebooks one order.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.records import has_ended

MAXIMUM_NAME_BYTES = 200


def enter(session_directory: str, name: str, record: str) -> list[str]:
    """Put a cell at the end of a queue.

    Returns:
        The numbers of the cells before it that may not have ended, the first sent first.
    """
    with _opened(session_directory, name) as file:
        before = _waiting(session_directory, file)
        _write(file, [*before, record])
    return before


def leave(session_directory: str, name: str, record: str) -> None:
    """Take a cell out again that could not be sent."""
    with _opened(session_directory, name) as file:
        _write(file, [each for each in _waiting(session_directory, file) if each != record])


def waiting(session_directory: str, name: str) -> list[str]:
    """Return the numbers of the cells in a queue that may not have ended, the first sent first."""
    with _opened(session_directory, name) as file:
        return _waiting(session_directory, file)


def names(session_directory: str) -> list[str]:
    """Return the queues in which something waits or runs."""
    try:
        found = sorted(unquote(entry.name) for entry in _directory(session_directory).iterdir())
    except OSError:
        return []
    return [name for name in found if waiting(session_directory, name)]


def _directory(session_directory: str) -> Path:
    return Path(session_directory) / "queues"


@contextmanager
def _opened(session_directory: str, name: str) -> Iterator[BinaryIO]:
    """Open a queue's file, and let nobody else read or write it meanwhile."""
    quoted = quote(name, safe="")
    if len(quoted) > MAXIMUM_NAME_BYTES or quoted in (".", ".."):
        raise MagicUsageError(f"queue={name[:20]}… is no name for a queue; write for example queue=train")
    directory = _directory(session_directory)
    directory.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(directory / quoted, flags, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _waiting(session_directory: str, file: BinaryIO) -> list[str]:
    file.seek(0)
    return [record for record in file.read().decode().split() if not has_ended(session_directory, record)]


def _write(file: BinaryIO, records: list[str]) -> None:
    file.seek(0)
    file.truncate()
    file.write("".join(f"{record}\n" for record in records).encode())
    file.flush()

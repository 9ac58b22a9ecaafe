"""What a cell writes past Python: C code, subprocesses, `os.write`.

Each cell has pipes of its own in place of the process's descriptors 1 and 2 while it runs. One thread reads the pipes
of all cells. What a subprocess writes when its cell has ended still comes to that cell's pipe, never to the next cell;
then it goes to the worker's log. Before Python's own text is sent, the pipes are emptied, so that `print` and a
subprocess keep their order.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import fcntl
import os
import select
import threading
from collections.abc import Callable

_PIPE_BYTES = 1 << 20
"""C code that holds the interpreter can write so much before it has to wait for the thread that reads."""

_READ_BYTES = 1 << 16

IDLE_S = 1.0
"""A thread that has had nothing to read for so long ends."""


class _Pipe:
    """One of a cell's pipes."""

    def __init__(self, kind: str, target: int) -> None:
        self.kind = kind
        self.target = target
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.kept = -1
        self.ended = False


class CellDescriptors:
    """Descriptors 1 and 2 while a cell runs.

    Args:
        write: Takes text: `stdout` or `stderr`, and what was written.
    """

    def __init__(self, write: Callable[[str, str], None]) -> None:
        self._write: Callable[[str, str], None] | None = write
        self._lock = threading.RLock()
        self._pipes: list[_Pipe] = []
        self._waiting = select.poll()

    def begin(self) -> None:
        """Put the pipes in place."""
        for kind, target in (("stdout", 1), ("stderr", 2)):
            pipe = _Pipe(kind, target)
            pipe.kept = os.dup(target)
            os.dup2(pipe.writer, target)
            os.close(pipe.writer)
            self._pipes.append(pipe)
            self._waiting.register(pipe.reader, select.POLLIN)
            while not _reader().add(pipe.reader, self):
                pass  # it has just ended: the next one takes the pipe

    def drain(self) -> None:
        """Take what has been written so far. Costs a microsecond if there is nothing."""
        if not self._waiting.poll(0):
            return
        with self._lock:
            for pipe in self._pipes:
                self._read(pipe)

    def end(self) -> None:
        """Put the process's own descriptors back and take all that was written."""
        _flush_c()
        for pipe in self._pipes:
            os.dup2(pipe.kept, pipe.target)
        with self._lock:
            self.drain()
            for pipe in self._pipes:
                self._take(pipe, b"", final=True)
            self._write = None

    def readable(self, descriptor: int) -> None:
        """Take what has come; called by the thread that reads."""
        with self._lock:
            for pipe in self._pipes:
                if pipe.reader == descriptor:
                    self._read(pipe)

    def _read(self, pipe: _Pipe) -> None:
        while not pipe.ended:
            try:
                data = os.read(pipe.reader, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                pipe.ended = True
                _reader().remove(pipe.reader)
                self._waiting.unregister(pipe.reader)
                os.close(pipe.reader)
                os.close(pipe.kept)
                return
            self._take(pipe, data)

    def _take(self, pipe: _Pipe, data: bytes, final: bool = False) -> None:
        if self._write is None:  # the cell has ended: the log has it
            with contextlib.suppress(OSError):
                os.write(pipe.kept, data)
            return
        text = pipe.decoder.decode(data, final)
        if text:
            self._write(pipe.kind, text)


class _Reader:
    """The thread that reads."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ended = False
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._cells: dict[int, CellDescriptors] = {}
        threading.Thread(target=self._run, name="atoll-descriptors", daemon=True).start()

    def add(self, descriptor: int, cell: CellDescriptors) -> bool:
        """Read a pipe from now on; False if the thread has ended meanwhile."""
        with self._lock:
            if self.ended:
                return False
            self._cells[descriptor] = cell
            self._poll.register(descriptor, select.EPOLLIN)
            return True

    def remove(self, descriptor: int) -> None:
        """Read a pipe no more."""
        self._cells.pop(descriptor, None)
        with contextlib.suppress(OSError, ValueError):
            self._poll.unregister(descriptor)

    def _run(self) -> None:
        while True:
            ready = self._poll.poll(IDLE_S)
            for descriptor, _events in ready:
                cell = self._cells.get(descriptor)
                if cell is not None:
                    cell.readable(descriptor)
            with self._lock:
                if not ready and not self._cells:
                    self.ended = True
                    self._poll.close()
                    return


_the_reader: _Reader | None = None


def _reader() -> _Reader:
    global _the_reader
    if (
        _the_reader is None or _the_reader.ended or _the_reader.pid != os.getpid()
    ):  # a forked process has no such thread
        _the_reader = _Reader()
    return _the_reader


def _flush_c() -> None:
    """Have C's own streams written out."""
    ctypes.CDLL(None).fflush(None)

"""What the agent's core wants done with memory and disk: segments made, cut and destroyed, objects copied out and back.

Everything that may take long runs in threads and comes back as an event, so that the agent's loop never waits for
memory or a disk. Reserving what somebody waits for, reserving ahead, writing and reading have threads of their own:
none of them waits behind another. What is reserved ahead is reserved by a thread that runs only while the processors
have nothing else to do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from atoll.nodeagent.core.events import (
    CreateSegment,
    CutSegment,
    DeleteSpillFile,
    DestroySegment,
    ObjectRestored,
    ObjectsSpilled,
    RestoreFailed,
    RestoreObject,
    SegmentCreated,
    SegmentFailed,
    SendPiece,
    SpillFailed,
    SpillObjects,
    SpillPiece,
    WritePiece,
)
from atoll.nodeagent.segments import SegmentError, SharedSegment, available_bytes
from atoll.nodeagent.spill import SpillError, SpillFiles
from atoll.protocol.machine import Event

PLENTY_BYTES = 2 * 2**30
"""Left to the host by what is reserved before somebody needs it."""


class Memory:
    """The segments and spill files of an agent.

    Args:
        session_directory: Of the cluster.
        spill_directory: Where the user wants spill files; None for the session directory.
        deliver: Takes events, on the loop.
        after: Calls a function on the loop with what a thread returned.
    """

    def __init__(
        self,
        session_directory: Path,
        spill_directory: Path | None,
        deliver: Callable[[Event], None],
        after: Callable[[Future[Any], Callable[[Any], None]], None],
    ) -> None:
        self._deliver = deliver
        self._after = after
        self._segments: dict[int, SharedSegment] = {}
        self._files = SpillFiles(session_directory, spill_directory)
        self._reserving = ThreadPoolExecutor(2, thread_name_prefix="atoll-memory")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="atoll-ahead", initializer=_run_when_idle)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="atoll-spill")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="atoll-restore")

    def descriptor(self, segment_id: int, *, writable: bool) -> int:
        """Return the descriptor to hand out to those who write, or read, a segment."""
        segment = self._segments[segment_id]
        return segment.writable if writable else segment.readable

    # ------------------------------------------------------------------------------------------------ segments

    def create(self, action: CreateSegment) -> None:
        """Reserve memory."""
        segment_id = action.segment_id
        try:
            segment = SharedSegment(action.size_bytes)
        except SegmentError as error:
            self._deliver(SegmentFailed(segment_id, str(error)))
            return
        self._segments[segment_id] = segment
        available = _plenty if action.background else available_bytes

        def reserve() -> str:
            try:
                segment.reserve(available)
            except SegmentError as error:
                return str(error)
            return ""

        thread = self._ahead if action.background else self._reserving
        self._after(thread.submit(reserve), lambda text: self._reserved(segment_id, text))

    def _reserved(self, segment_id: int, failure: str) -> None:
        if segment_id not in self._segments:
            return  # given up meanwhile
        if failure:
            self.destroy(DestroySegment(segment_id))
            self._deliver(SegmentFailed(segment_id, failure))
        else:
            self._deliver(SegmentCreated(segment_id))

    def cut(self, action: CutSegment) -> None:
        """Give the end of a segment's memory back."""
        self._reserving.submit(self._segments[action.segment_id].cut, action.size_bytes)

    def destroy(self, action: DestroySegment) -> None:
        """Give a segment's memory back."""
        segment = self._segments.pop(action.segment_id, None)
        if segment is not None:
            segment.given_up = True
            self._reserving.submit(segment.close)

    # -------------------------------------------------------------------------------------------------- disk

    def spill(self, action: SpillObjects) -> None:
        """Copy objects to a file."""
        lent = contextlib.ExitStack()
        pieces = list(self._lend(action.pieces, lent))

        def write() -> Event:
            with lent:
                try:
                    self._files.prepare()
                    return ObjectsSpilled(action.file_id, self._files.write(action.file_id, pieces))
                except SpillError as error:
                    return SpillFailed(action.file_id, str(error))

        self._after(self._writing.submit(write), self._deliver)

    def restore(self, action: RestoreObject) -> None:
        """Copy an object back."""
        lent = contextlib.ExitStack()
        (piece,) = self._lend([action.piece], lent)

        def read() -> Event:
            with lent:
                try:
                    self._files.read(action.file_id, action.file_offset, action.checksum, piece)
                except SpillError as error:
                    return RestoreFailed(action.object_id, str(error))
                return ObjectRestored(action.object_id)

        self._after(self._reading.submit(read), self._deliver)

    # ------------------------------------------------------------------------------------------- other nodes

    def read_piece(self, action: SendPiece) -> bytes:
        """Return a part of an object."""
        segment = self._segments[action.piece.segment_id]
        return os.pread(segment.readable, action.size_bytes, action.piece.offset + action.offset)

    def write_piece(self, action: WritePiece) -> None:
        """Write a part of an object. The memory is reserved: the write does not fail for want of it."""
        segment = self._segments[action.piece.segment_id]
        view, position = memoryview(action.data), action.piece.offset + action.offset
        while view:
            written = os.pwrite(segment.writable, view, position)
            view, position = view[written:], position + written

    def delete(self, action: DeleteSpillFile) -> None:
        """Remove a file."""
        self._writing.submit(self._files.delete, action.file_id)

    def _lend(self, pieces: list[SpillPiece], until: contextlib.ExitStack) -> Iterator[tuple[int, int, int]]:
        """Yield descriptor, offset and size. The descriptors are copies: a segment may be closed meanwhile."""
        copies: dict[int, int] = {}
        for piece in pieces:
            if piece.segment_id not in copies:
                copies[piece.segment_id] = copy = os.dup(self._segments[piece.segment_id].writable)
                until.callback(os.close, copy)
            yield copies[piece.segment_id], piece.offset, piece.size_bytes

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Give everything back, and remove all files."""
        for segment in self._segments.values():
            segment.given_up = True
        self._files.given_up = True
        for threads in (self._reserving, self._ahead, self._writing, self._reading):
            threads.shutdown()
        for segment in self._segments.values():
            segment.close()
        self._files.close()


def _plenty() -> int:
    return available_bytes() - PLENTY_BYTES


def _run_when_idle() -> None:
    """Have the calling thread run only while the processors have nothing else to do."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

"""Cells that nobody waits for any more, and what cells have shown: `%logs`, `%attach`, `%tb`.

A cell that was interrupted twice, or that did not end when it was asked to, runs on under its number. Its result is
taken over when somebody attaches to it and it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from atoll.kernel_ext.cell_messages import AGAIN, UNSHOWN
from atoll.kernel_ext.engine.contract import Running
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.namespace_pickle import PackedNames
from atoll.kernel_ext.outputs import Sink, replay
from atoll.kernel_ext.post_mortem import describe
from atoll.kernel_ext.records import END, LOST, Ending, RecordReader, directory_of, read_ending

LOOK_EVERY_S = 0.05


@dataclass
class Detached:
    """A cell of this kernel that runs on.

    Attributes:
        running: It.
        sent: What it was given.
        title: What it is called in errors.
    """

    running: Running
    sent: PackedNames
    title: str


_detached: dict[str, Detached] = {}


def running_cell(record: str) -> Running | None:
    """Return a cell of this kernel that runs on and that nobody waits for; None for any other."""
    cell = _detached.get(record)
    return cell.running if cell is not None else None


def gone(cell: Detached | None) -> Callable[[], bool]:
    """Return what tells whether a cell is over, whatever its record says. Of another kernel's cell only that tells."""
    return cell.running.future.done if cell is not None else lambda: False


def is_number(line: str) -> bool:
    """Whether a line names a cell: `t42`."""
    name = line.strip()
    return name.startswith("t") and name[1:].isdigit()


def detach(record: str, cell: Detached) -> str:
    """Remember a cell that runs on; return what to tell the user."""
    if not record:
        return "the cell is being cancelled"
    _detached[record] = cell
    return (
        f"the cell was asked to stop and runs on as {record}: "
        f"%attach {record} waits for it, %logs {record} shows its output"
    )


def take_detached(record: str) -> Detached | None:
    """Return a cell of this kernel that runs on, and forget it."""
    return _detached.pop(record, None)


def reader_of(magic: str, line: str) -> tuple[str, RecordReader]:
    """Return the cell that a line names.

    Raises:
        MagicUsageError: It names none, or one that is not kept.
    """
    name = line.strip()
    directory = current_engine().directory()
    if not is_number(name):
        raise MagicUsageError(f"{magic} needs the number of a cell: {magic} t42. {known_cells(directory)}")
    try:
        return name, RecordReader(directory, name)
    except FileNotFoundError:
        raise MagicUsageError(f"there is no cell {name}. {known_cells(directory)}") from None


def kept_numbers(directory: str) -> list[int]:
    """Return the numbers of the cells whose output is kept, the oldest first."""
    try:
        return sorted(int(entry.name[1:]) for entry in directory_of(directory).iterdir() if is_number(entry.name))
    except OSError:
        return []


def known_cells(directory: str) -> str:
    """Return which cells are kept, in a sentence."""
    numbers = kept_numbers(directory) if directory else []
    return f"Kept are t{numbers[0]} to t{numbers[-1]}" if numbers else "None is kept yet"


def show(reader: RecordReader, sink: Sink, *, everything: bool = False) -> Ending | None:
    """Show what a cell has written since the last call; return how it ended, if it has.

    Args:
        reader: Of its record.
        sink: Where to.
        everything: Also what was too much to be shown while the cell ran.
    """
    ending = None
    is_said_again = False
    for _number, told, payload in reader.pieces():
        kind = told.removeprefix(UNSHOWN) if everything else told
        if kind == AGAIN:
            is_said_again = everything
        elif is_said_again:
            is_said_again = False
        elif kind == END:
            ending = read_ending(payload)
        elif kind == LOST:
            sink.text("stderr", "[the rest was too much to be kept]\n")
        else:
            replay(kind, payload, sink)
    return ending


def follow(reader: RecordReader, sink: Sink, gone: Callable[[], bool]) -> Ending | None:
    """Show what a cell writes until it ends, or is gone without an end."""
    while True:
        was_gone = gone()
        ending = show(reader, sink)
        if ending is not None or was_gone:
            return ending
        time.sleep(LOOK_EVERY_S)


def post_mortem(name: str, reader: RecordReader) -> str:
    """Return a cell's error with its variables, as text."""
    for _number, kind, payload in reader.pieces():
        if kind == END:
            return describe(name, read_ending(payload))
    return f"{name} has not ended, or its worker died"

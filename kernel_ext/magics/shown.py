"""`%logs`, `%attach`, `%tb`: what cells have shown, and how they ended."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import detached
from atoll.kernel_ext.background.handle import BackgroundCell, result_of
from atoll.kernel_ext.background.kernel import cells_of
from atoll.kernel_ext.errors import CellInterrupted, failure_to_raise, named_error
from atoll.kernel_ext.grammar import ParsedLine
from atoll.kernel_ext.namespace_pickle import PackedNames
from atoll.kernel_ext.outputs import NoSink, ShellSink, sink_for_later
from atoll.kernel_ext.records import RecordReader
from atoll.kernel_ext.remote_cell import apply_result, take_over_detached


def _number(shell: Any, said: ParsedLine) -> str:
    """Return the number of the cell that a line names, also by the variable of its handle."""
    name = said.name or ""
    value = shell.user_ns.get(name)
    return value.record if isinstance(value, BackgroundCell) else name


def logs(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%logs t42`."""
    _name, reader = detached.reader_of("%logs", _number(shell, said))
    detached.show(reader, ShellSink(shell), everything="all" in said.flags)


def attach(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%attach t42`."""
    name, reader = detached.reader_of("%attach", _number(shell, said))
    try:
        _attach_to_background(shell, name, reader, "bg" in said.flags)
    except KeyError:
        _attach_to_foreground(shell, name, reader)


def _attach_to_foreground(shell: Any, name: str, reader: RecordReader) -> None:
    """Go on with a cell that was waited for and left."""
    sink = ShellSink(shell)
    cell = detached.take_detached(name)
    try:
        ending = detached.follow(reader, sink, detached.gone(cell))
    except KeyboardInterrupt:
        if cell is not None:
            detached.detach(name, cell)
        raise CellInterrupted(f"{name} runs on; %attach {name} shows it again") from None
    if cell is not None:
        take_over_detached(shell, cell, sink)
    elif ending is not None and ending.status == "failed":
        raise named_error("RemoteCellFailed", f"{name} failed", ending.traceback)


def _attach_to_background(shell: Any, number: str, reader: RecordReader, at_once: bool) -> None:
    """Bind the handle of a background cell, wherever it was sent from; then wait for it and take over what it sets.

    Raises:
        KeyError: The cell is no background cell.
    """
    cell = cells_of(shell).handle_of(number, sink_for_later(shell) if at_once else NoSink())
    if cell.name.isidentifier() and cell.name != "cell":
        shell.user_ns[cell.name] = cell
    else:
        shell.displayhook.update_user_ns(cell)
    if at_once:
        return
    cell.show_line(sink_for_later(shell), output=True)
    try:
        detached.follow(reader, ShellSink(shell), cell.done)
    except KeyboardInterrupt:
        raise CellInterrupted(f"{number} runs on; %attach {number} shows it again") from None
    cell.wait()
    result, ref = result_of(cell)
    if result.failure is not None:
        raise failure_to_raise(result, shell.user_ns, f"%%remote {cell.name}") from None
    apply_result(shell, result, ShellSink(shell), PackedNames(b""), ref)


def traceback(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%tb t42`; without a number, IPython's own."""
    name = _number(shell, said)
    if not detached.is_number(name):
        from IPython.core.magics.basic import BasicMagics

        BasicMagics(shell).tb(name)
        return
    name, reader = detached.reader_of("%tb", name)
    ShellSink(shell).text("stdout", detached.post_mortem(name, reader) + "\n")

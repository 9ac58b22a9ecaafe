"""`%logs`, `%attach`, `%tb`: what cells have shown, and how they ended."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import detached
from atoll.kernel_ext.errors import CellInterrupted, named_error
from atoll.kernel_ext.grammar import ParsedLine
from atoll.kernel_ext.outputs import ShellSink
from atoll.kernel_ext.remote_cell import take_over_detached


def logs(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%logs t42`."""
    _name, reader = detached.reader_of("%logs", said.name or "")
    detached.show(reader, ShellSink(shell))


def attach(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%attach t42`."""
    name, reader = detached.reader_of("%attach", said.name or "")
    sink = ShellSink(shell)
    cell = detached.take_detached(name)
    try:
        ending = detached.follow(reader, sink, detached.gone(name, cell))
    except KeyboardInterrupt:
        if cell is not None:
            detached.detach(name, cell)
        raise CellInterrupted(f"{name} runs on; %attach {name} shows it again") from None
    if cell is not None:
        take_over_detached(shell, cell, sink)
    elif ending is not None and ending.status == "failed":
        raise named_error("RemoteCellFailed", f"{name} failed", ending.traceback)


def traceback(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%tb t42`; without a number, IPython's own."""
    name = said.name or ""
    if not detached.is_number(name):
        from IPython.core.magics.basic import BasicMagics

        BasicMagics(shell).tb(name)
        return
    name, reader = detached.reader_of("%tb", name)
    ShellSink(shell).text("stdout", detached.post_mortem(name, reader) + "\n")

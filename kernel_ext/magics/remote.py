"""`%%remote`: a cell on a worker, inside of an actor, or in the background."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import actors, detached
from atoll.kernel_ext.background import BackgroundCell, BackgroundOutput
from atoll.kernel_ext.capture import CellText, read_cell, request_of
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine import Resources, current_engine
from atoll.kernel_ext.errors import one_line
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.outputs import sink_for_later
from atoll.kernel_ext.records import new_record
from atoll.kernel_ext.remote_cell import Start, run_and_show, send_cell
from atoll.kernel_ext.waiting import when_done

USUAL_LABEL = "%%remote"
"""What a cell without a name is called. One label for all, so that they share a warm worker."""


def resources_of(said: ParsedLine) -> Resources:
    """Return what a first line asks for."""
    return Resources(said.get("cpu"), said.get("gpu"), said.get("mem"))


def run(shell: Any, said: ParsedLine, cell: str) -> None:
    """`%%remote`."""
    label = said.name or USUAL_LABEL
    host = said.get("on")
    text = read_cell(shell, cell)
    if host is not None:
        start, label, request = _inside(shell, said, text, str(host))
    else:
        request = request_of(shell, text, take=said.get("in"), bring=said.get("out"), apart="bg" in said.flags)
        request.record = _new_record()
        start = send_cell(current_engine(), request, resources_of(said), label)
    quiet = "quiet" in said.flags
    if "bg" in said.flags:
        _in_background(shell, said, start, request.record, quiet)
        return
    title = f"%%remote {said.name}" if said.name else "%%remote"
    run_and_show(shell, current_engine(), start, label, request=request, quiet=quiet, title=title)


def _new_record() -> str:
    """Take a number for a cell; none where the cluster keeps no output."""
    directory = current_engine().directory()
    return new_record(directory) if directory else ""


def _inside(shell: Any, said: ParsedLine, text: CellText, host: str) -> tuple[Start, str, CellRequest]:
    """Prepare a cell that runs inside of an actor."""
    for option in ("gpu", "cpu", "mem"):
        if said.get(option) is not None:
            raise MagicUsageError(f"{option}= has no meaning with on=: the cell uses what the actor {host} holds")
    engine = current_engine()
    actor = actors.require_actor(engine, host)
    facts = actors.facts_of(engine, actor, host)
    request = request_of(
        shell,
        text,
        take=said.get("in"),
        bring=said.get("out"),
        there=(*facts.state, host),
        stays=True,
        apart="bg" in said.flags,
    )
    request.record = _new_record()
    start: Start = lambda on_output: actor.call("cell_run", request, on_output=on_output)  # noqa: E731
    return start, f"{said.name or 'cell'} on {host}", request


def _in_background(shell: Any, said: ParsedLine, start: Start, record: str, quiet: bool) -> None:
    """Send a cell and leave a handle."""
    name = said.name or "cell"
    handle = BackgroundCell(name, shell.user_ns, record)
    output = BackgroundOutput(sink_for_later(shell), quiet)
    try:
        running = start(output.take)
    except Exception as error:
        raise one_line(error) from None
    handle.attach(running)
    detached.watch(record, running)
    when_done(running, lambda: output.ended(handle))
    if said.name:
        shell.user_ns[said.name] = handle
    else:
        shell.displayhook(handle)

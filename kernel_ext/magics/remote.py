"""`%%remote` and `%remote defaults`: a cell on a worker, inside of an actor, in the background, or here."""

from __future__ import annotations

from typing import Any

from atoll.kernel_ext import actors, defaults, detached
from atoll.kernel_ext.background import BackgroundCell, BackgroundOutput
from atoll.kernel_ext.capture import CellText, read_cell, request_of
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine import OnOutput, Options, Running, current_engine
from atoll.kernel_ext.errors import one_line
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.grammar.schema import PLACE
from atoll.kernel_ext.local_cell import run_here
from atoll.kernel_ext.outputs import sink_for_later
from atoll.kernel_ext.placing import options_of
from atoll.kernel_ext.queues import queues
from atoll.kernel_ext.records import new_record
from atoll.kernel_ext.remote_cell import Start, run_and_show, send_cell
from atoll.kernel_ext.waiting import when_done

USUAL_LABEL = "%%remote"
"""What a cell without a name is called. One label for all, so that they share a warm worker."""


def run(shell: Any, said: ParsedLine, cell: str) -> Any:
    """`%%remote`."""
    said = defaults.with_defaults(said)
    _check(said)
    label = said.name or USUAL_LABEL
    host = said.get("on")
    text = read_cell(shell, cell)
    if "local" in said.flags:
        run_here(shell, text)
        return None
    if host is not None:
        start, label, request = _inside(shell, said, text, str(host))
    else:
        request = request_of(shell, text, take=said.get("in"), bring=said.get("out"), apart="bg" in said.flags)
        request.record = _new_record()
        start = _queued(said, request, options_of(said, current_engine().state), label)
    request.timeout_s = said.get("timeout", 0.0)
    quiet = "quiet" in said.flags
    if "bg" in said.flags:
        _in_background(shell, said, start, request.record, quiet)
        return None
    title = f"%%remote {said.name}" if said.name else "%%remote"
    run_and_show(shell, current_engine(), start, label, request=request, quiet=quiet, title=title)
    return None


def set_defaults(_shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%remote defaults`."""
    defaults.change(said)
    print(f"%%remote {defaults.current()}" if defaults.current() != ParsedLine() else "%%remote has no defaults")


def _check(said: ParsedLine) -> None:
    """Refuse a line whose parts do not go together.

    Raises:
        MagicUsageError: They do not; says why.
    """
    if "local" in said.flags:
        for word in ("bg", "dry"):
            if word in said.flags:
                raise MagicUsageError(f"local and {word} do not go together: local runs the cell here, now")
        if said.get("on") is not None:
            raise MagicUsageError(f"local and on={said.get('on')} say two places")
    if said.get("on") is None or said.grammar is None:
        return
    for option in said.grammar.options:
        if said.get(option.name) is None or option.name in ("on", "in", "out", "timeout"):
            continue
        if option.group == PLACE:
            raise MagicUsageError(
                f"{option.name}= has no meaning with on=: the cell uses what the actor {said.get('on')} holds"
            )
        raise MagicUsageError(
            f"{option.name}= has no meaning with on=: an actor runs one cell after the other, in its own process"
        )
    if "preemptible" in said.flags:
        raise MagicUsageError("preemptible has no meaning with on=: an actor is not ended for others")


def _new_record() -> str:
    """Take a number for a cell; none where the cluster keeps no output."""
    directory = current_engine().directory()
    return new_record(directory) if directory else ""


def _queued(said: ParsedLine, request: CellRequest, options: Options, label: str) -> Start:
    """Return what sends a cell to a worker, behind the one before it in its queue."""
    queue = said.get("queue")
    if queue is None:
        return send_cell(current_engine(), request, options, label)

    def start(on_output: OnOutput) -> Running:
        before = {**options, "_after": queues.before(queue) or None}
        running = current_engine().run_cell(request, before, label, on_output)
        queues.add(queue, running)
        return running

    return start


def _inside(shell: Any, said: ParsedLine, text: CellText, host: str) -> tuple[Start, str, CellRequest]:
    """Prepare a cell that runs inside of an actor."""
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

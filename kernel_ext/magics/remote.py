"""`%%remote` and `%remote defaults`: a cell on a worker, inside of an actor, in the background, or here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from atoll.kernel_ext import actors, defaults, queues, why
from atoll.kernel_ext.background.handle import BackgroundCell
from atoll.kernel_ext.background.kernel import Needed, cells_of, from_cells
from atoll.kernel_ext.capture import CellText, read_cell, request_of
from atoll.kernel_ext.cell_course import SENT, Sent, encode
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.grammar.schema import PLACE
from atoll.kernel_ext.local_cell import run_here
from atoll.kernel_ext.outputs import ShellSink
from atoll.kernel_ext.placing import options_of
from atoll.kernel_ext.records import append_piece, new_record
from atoll.kernel_ext.remote_cell import Start, run_and_show, send_cell
from atoll.kernel_ext.why_view import WhyView

USUAL_LABEL = "%%remote"
"""What a cell without a name is called. One label for all, so that they share a warm worker."""


def run(shell: Any, said: ParsedLine, cell: str) -> WhyView | None:
    """`%%remote`."""
    if "notify" in said.flags and "bg" not in said.flags:
        raise MagicUsageError("notify goes with bg: a cell that is waited for is done when its output says so")
    said = defaults.with_defaults(said)
    _check(said)
    text = read_cell(shell, cell)
    if "local" in said.flags:
        run_here(shell, text)
    elif "dry" in said.flags:
        return why.dry(said, said.name or USUAL_LABEL)
    elif said.get("on") is not None:
        _run_inside(shell, said, text, str(said.get("on")))
    elif "bg" in said.flags:
        _run_in_background(shell, said, text)
    else:
        _run_and_wait(shell, said, text)
    return None


def _run_and_wait(shell: Any, said: ParsedLine, text: CellText) -> None:
    """Run a cell on a worker, and wait for it."""
    label = said.name or USUAL_LABEL
    needed = needed_by(shell, said, text)
    if said.get("queue") is not None:
        before = _cells(shell, queues.waiting(current_engine().directory(), said.get("queue")))
        wait_for(shell, said, {**dict.fromkeys(before, ()), **needed})
    else:
        wait_for(shell, said, needed)
    request = _request(shell, said, text, needed)
    start = send_cell(current_engine(), request, options_of(said, current_engine().state), label)
    _show(shell, said, start, label, request)


def _run_in_background(shell: Any, said: ParsedLine, text: CellText) -> None:
    """Send a cell and leave a handle."""
    actors.check_builtin(said.name or "")
    needed = needed_by(shell, said, text)
    request = _request(shell, said, text, needed)
    options = options_of(said, current_engine().state)
    quiet, notify = "quiet" in said.flags, "notify" in said.flags
    with _queued(said, request) as before:
        behind = _cells(shell, before)
        name = said.name or "cell"
        handle = cells_of(shell).begin(request, options, name, needed, behind=behind, quiet=quiet, notify=notify)
    _bind(shell, said, text, handle)


@contextlib.contextmanager
def _queued(said: ParsedLine, request: CellRequest) -> Iterator[list[str]]:
    """Put a cell into its queue, if its line names one; take it out again if it cannot be sent."""
    name, directory = said.get("queue"), current_engine().directory()
    if name is None:
        yield []
        return
    before = queues.enter(directory, name, request.record)
    try:
        yield before
    except BaseException:
        queues.leave(directory, name, request.record)
        raise


def _cells(shell: Any, numbers: list[str]) -> list[BackgroundCell]:
    """Return cells by their numbers, of whatever notebook; those that nobody knows any more are left out."""
    found = [cells_of(shell).cell_of(number) for number in numbers]
    return [cell for cell in found if cell is not None]


def _request(shell: Any, said: ParsedLine, text: CellText, needed: Needed) -> CellRequest:
    request = request_of(
        shell,
        text,
        take=taken(said, needed),
        bring=said.get("out"),
        there=names_of(needed),
        apart="bg" in said.flags,
    )
    return _numbered(shell, said, request, needed, said.name or USUAL_LABEL)


def _numbered(shell: Any, said: ParsedLine, request: CellRequest, needed: Needed, label: str) -> CellRequest:
    """Give a request what does not come from its text."""
    request.from_cells = from_cells(needed)
    directory = current_engine().directory()
    if directory:
        request.record = new_record(directory)
        if "bg" not in said.flags:  # of a background cell, its handle writes what it is
            sent = Sent(current_engine().job(), label, actors.notebook_name(shell.user_ns))
            append_piece(directory, request.record, SENT, encode(sent))
    request.timeout_s = said.get("timeout", 0.0)
    return request


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


def needed_by(shell: Any, said: ParsedLine, text: CellText, *, later: bool = False) -> Needed:
    """Return the background cells that a cell depends on.

    Args:
        shell: IPython's.
        said: Its first line.
        text: It.
        later: Whether what its functions read counts, too: they stay, in an actor.
    """
    reads = said.get("in", (*text.names.reads, *(text.names.later if later else ())))
    return cells_of(shell).pending.needed(reads, shell.user_ns)


def wait_for(shell: Any, said: ParsedLine, needed: Needed) -> None:
    """Wait for the background cells that a cell depends on."""
    cells_of(shell).wait_for(needed, ShellSink(shell), quiet="quiet" in said.flags)


def names_of(needed: Needed) -> tuple[str, ...]:
    """Return the names that come from other cells."""
    return tuple(name for names in needed.values() for name in names)


def taken(said: ParsedLine, needed: Needed) -> tuple[str, ...] | None:
    """Return what `in=` says, less what comes from other cells."""
    named, elsewhere = said.get("in"), names_of(needed)
    return None if named is None else tuple(name for name in named if name not in elsewhere)


def _run_inside(shell: Any, said: ParsedLine, text: CellText, host: str) -> None:
    """Run a cell inside of an actor."""
    engine = current_engine()
    actor = actors.require_actor(engine, host)
    facts = actors.facts_of(engine, actor, host)
    needed = needed_by(shell, said, text, later=True)
    needed = {cell: tuple(name for name in names if name not in facts.state) for cell, names in needed.items()}
    wait_for(shell, said, needed)
    request = request_of(
        shell,
        text,
        take=taken(said, needed),
        bring=said.get("out"),
        there=(*facts.state, *names_of(needed), host),
        stays=True,
        apart="bg" in said.flags,
    )
    label = f"{said.name or 'cell'} on {host}"
    _numbered(shell, said, request, needed, label)
    if "bg" in said.flags:
        quiet, notify = "quiet" in said.flags, "notify" in said.flags
        name = said.name or "cell"
        handle = cells_of(shell).begin_inside(request, host, actor, name, quiet=quiet, notify=notify)
        _bind(shell, said, text, handle)
        return
    start: Start = lambda on_output: actor.call("cell_run", request, on_output=on_output, label=label)  # noqa: E731
    _show(shell, said, start, label, request)


def _show(shell: Any, said: ParsedLine, start: Start, label: str, request: CellRequest) -> None:
    title = f"%%remote {said.name}" if said.name else "%%remote"
    quiet = "quiet" in said.flags
    run_and_show(shell, current_engine(), start, label, request=request, quiet=quiet, title=title)


def _bind(shell: Any, said: ParsedLine, text: CellText, handle: Any) -> None:
    """Leave the handle of a background cell in the notebook, and note what it will set."""
    sets = text.names.sets if said.get("out") is None else said.get("out")
    if said.name:
        shell.user_ns[said.name] = handle
    else:
        shell.displayhook.update_user_ns(handle)
    cells_of(shell).pending.note(handle, sets, shell.user_ns)

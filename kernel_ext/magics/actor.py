"""`%%actor` and `%actor`: making, updating and binding actors."""

from __future__ import annotations

from typing import Any, NamedTuple

from atoll.kernel_ext import actors, why
from atoll.kernel_ext.background.kernel import from_cells
from atoll.kernel_ext.capture import CellText, read_cell, request_of
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine.contract import Actor
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.errors import has_own_lines, one_line
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.magics.remote import names_of, needed_by, taken, wait_for
from atoll.kernel_ext.outputs import ShellSink, Sink, replay
from atoll.kernel_ext.placing import options_of
from atoll.kernel_ext.remote_cell import Start, run_and_show
from atoll.kernel_ext.why_view import WhyView


class Origin(NamedTuple):
    """What an actor remembers of the cell that made it; see `ActorFacts`."""

    functions: tuple[str, ...]
    digest: str
    origins: tuple[str, ...]
    place: str
    idle_s: float


def make(shell: Any, said: ParsedLine, cell: str) -> WhyView | None:
    """`%%actor llm`: make an actor of a cell, or update the one that the cell has made."""
    assert said.name is not None, "the grammar asks for a name"
    if "dry" in said.flags:
        return why.dry(said, said.name, default_cpus=0)
    actors.check_variable(said.name, shell.user_ns)
    try:
        _make_or_update(shell, said, said.name, read_cell(shell, cell))
    except (KeyboardInterrupt, MagicUsageError):
        raise
    except Exception as error:
        raise (error if has_own_lines(error) else one_line(error)) from None
    return None


def bind(shell: Any, said: ParsedLine, _cell: str) -> None:
    """`%actor llm`: bind the name of an actor that another notebook has made."""
    assert said.name is not None, "the grammar asks for a name"
    actors.check_variable(said.name, shell.user_ns)
    engine = current_engine()
    facts = actors.facts_of(engine, actors.require_actor(engine, said.name), said.name)
    shell.user_ns[said.name] = actors.CellActorHandle(said.name)
    _show_line(actors.describe_actor(said.name, facts), ShellSink(shell))


def _make_or_update(shell: Any, said: ParsedLine, name: str, text: CellText) -> None:
    engine = current_engine()
    sink = ShellSink(shell)
    tokens, place = actors.origins(engine, shell.user_ns)
    functions = tuple(part for part in text.names.functions if not part.startswith("_"))
    origin = Origin(functions, actors.code_digest(text.code), tokens, place, said.get("expire", 0.0))
    actor = engine.find_actor(name)
    if actor is not None and "fresh" in said.flags:
        actor.kill()
        actor = None
    if actor is None:
        request = actors.defining_request(_packed(shell, said, text, ()), keep_state=False)
        actor = actors.make_actor(engine, name, functions, options_of(said, engine.state))
        try:
            _define(shell, said, name, actor, request, origin)
        except BaseException as error:
            # What its cell could not make is no actor; the name is free for the next attempt.
            actor.kill(_cause_of(error))
            raise
    else:
        facts = actors.facts_of(engine, actor, name)
        if facts.digest == origin.digest:
            for kind, payload in engine.wait(actor.call("cell_shown")):
                replay(kind, payload, sink)
        elif actors.same_notebook(facts, tokens):
            packed = _packed(shell, said, text, facts.state)
            _define(shell, said, name, actor, actors.defining_request(packed, keep_state=True), origin)
        else:
            raise actors.taken(name, facts)
    shell.user_ns[name] = actors.CellActorHandle(name)
    if "quiet" not in said.flags:
        _show_line(actors.describe_actor(name, actors.facts_of(engine, actor, name)), sink)


def _cause_of(error: BaseException) -> str:
    """Return why there is no actor, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return "its cell was interrupted"
    kind = getattr(error, "kind", "") or type(error).__name__
    line = " ".join(str(error).split())
    return f"its cell raised {kind}: {line}" if line else f"its cell raised {kind}"


def _packed(shell: Any, said: ParsedLine, text: CellText, state: tuple[str, ...]) -> CellRequest:
    """Return the request for a cell, when the background cells have ended that it depends on."""
    needed = needed_by(shell, said, text, later=True)
    needed = {cell: tuple(name for name in names if name not in state) for cell, names in needed.items()}
    wait_for(shell, said, needed)
    request = request_of(shell, text, take=taken(said, needed), there=(*state, *names_of(needed)), stays=True)
    request.from_cells = from_cells(needed)
    return request


def _define(shell: Any, said: ParsedLine, name: str, actor: Actor, request: CellRequest, origin: Origin) -> None:
    start: Start = lambda on_output: actor.call("cell_define", request, *origin, on_output=on_output)  # noqa: E731
    title = f"%%actor {name}"
    quiet = "quiet" in said.flags
    run_and_show(shell, current_engine(), start, name, request=request, quiet=quiet, title=title)


def _show_line(text: str, sink: Sink) -> None:
    sink.display({"text/plain": text}, {}, {}, update=False)

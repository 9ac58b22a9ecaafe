"""The magics: thin. What a line says is read by `grammar`, what a cell does is done by the other modules."""

from __future__ import annotations

from typing import Any, NamedTuple

from IPython.core.magic import Magics, cell_magic, line_cell_magic, line_magic, magics_class, no_var_expand

from atoll.kernel_ext import actors, detached, grammar, views
from atoll.kernel_ext.background import BackgroundCell, BackgroundOutput
from atoll.kernel_ext.capture import CellText, read_cell, request_of
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine import Actor, Resources, current_engine
from atoll.kernel_ext.errors import CellInterrupted, named_error, one_line
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.outputs import NoSink, ShellSink, Sink, replay, sink_for_later
from atoll.kernel_ext.records import new_record
from atoll.kernel_ext.remote_cell import Start, run_and_show, send_cell, take_over_detached
from atoll.kernel_ext.waiting import when_done

USUAL_LABEL = "%%remote"
"""What a cell without a name is called. One label for all, so that they share a warm worker."""


def resources_of(line: ParsedLine) -> Resources:
    """Return what a first line asks for."""
    return Resources(line.get("cpu"), line.get("gpu"), line.get("mem"))


class Origin(NamedTuple):
    """What an actor remembers of the cell that made it; see `ActorFacts`."""

    functions: tuple[str, ...]
    digest: str
    origins: tuple[str, ...]
    place: str


def _new_record() -> str:
    """Take a number for a cell; none where the cluster keeps no output."""
    directory = current_engine().directory()
    return new_record(directory) if directory else ""


@magics_class
class AtollMagics(Magics):  # type: ignore[misc]
    """What `%load_ext atoll` adds to IPython."""

    def _parse(self, schema: grammar.Grammar, line: str) -> ParsedLine:
        return grammar.parse(schema, line, self.shell.ev)

    # ------------------------------------------------------------------------------------------ %%remote

    @no_var_expand
    @cell_magic
    def remote(self, line: str, cell: str) -> None:
        """Replaced by the grammar's documentation below."""
        said = self._parse(grammar.REMOTE, line)
        label = said.name or USUAL_LABEL
        host = said.get("on")
        text = read_cell(self.shell, cell)
        if host is not None:
            start, label, request = self._inside(said, text, str(host))
        else:
            request = request_of(self.shell, text, take=said.get("in"), bring=said.get("out"), apart="bg" in said.flags)
            request.record = _new_record()
            start = send_cell(current_engine(), request, resources_of(said), label)
        quiet = "quiet" in said.flags
        if "bg" in said.flags:
            self._in_background(said, start, request.record, quiet)
            return
        title = f"%%remote {said.name}" if said.name else "%%remote"
        run_and_show(self.shell, current_engine(), start, label, request=request, quiet=quiet, title=title)

    def _inside(self, said: ParsedLine, text: CellText, host: str) -> tuple[Start, str, CellRequest]:
        """Prepare a cell that runs inside of an actor."""
        for option in ("gpu", "cpu", "mem"):
            if said.get(option) is not None:
                raise MagicUsageError(f"{option}= has no meaning with on=: the cell uses what the actor {host} holds")
        engine = current_engine()
        actor = actors.require_actor(engine, host)
        facts = actors.facts_of(engine, actor, host)
        request = request_of(
            self.shell,
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

    def _in_background(self, said: ParsedLine, start: Start, record: str, quiet: bool) -> None:
        """Send a cell and leave a handle."""
        name = said.name or "cell"
        handle = BackgroundCell(name, self.shell.user_ns, record)
        output = BackgroundOutput(sink_for_later(self.shell), quiet)
        try:
            running = start(output.take)
        except Exception as error:
            raise one_line(error) from None
        handle.attach(running)
        detached.watch(record, running)
        when_done(running, lambda: output.ended(handle))
        if said.name:
            self.shell.user_ns[said.name] = handle
        else:
            self.shell.displayhook(handle)

    # ------------------------------------------------------------------------------------------- %%actor

    @no_var_expand
    @line_cell_magic
    def actor(self, line: str, cell: str | None = None) -> None:
        """Replaced by the grammar's documentation below."""
        if cell is None:
            self._bind_actor(line)
            return
        said = self._parse(grammar.ACTOR, line)
        assert said.name is not None, "the grammar asks for a name"
        try:
            self._make_or_update(said, said.name, read_cell(self.shell, cell))
        except (KeyboardInterrupt, MagicUsageError):
            raise
        except Exception as error:
            raise (error if hasattr(error, "_render_traceback_") else one_line(error)) from None

    def _bind_actor(self, line: str) -> None:
        """`%actor llm`: bind the name of an actor that another notebook has made."""
        words = grammar.split_words(line)
        if len(words) != 1:
            raise MagicUsageError("%actor needs one name: %actor llm. To make an actor, write %%actor above a cell")
        engine = current_engine()
        facts = actors.facts_of(engine, actors.require_actor(engine, words[0]), words[0])
        self.shell.user_ns[words[0]] = actors.CellActorHandle(words[0])
        self._show_line(actors.describe_actor(words[0], facts), ShellSink(self.shell))

    def _make_or_update(self, said: ParsedLine, name: str, text: CellText) -> None:
        engine = current_engine()
        sink: Sink = NoSink() if "quiet" in said.flags else ShellSink(self.shell)
        tokens, place = actors.origins(engine, self.shell.user_ns)
        functions = tuple(part for part in text.names.functions if not part.startswith("_"))
        origin = Origin(functions, actors.code_digest(text.code), tokens, place)
        actor = engine.find_actor(name)
        if actor is not None and "fresh" in said.flags:
            actor.kill()
            actor = None
        if actor is None:
            packed = request_of(self.shell, text, take=said.get("in"), stays=True)
            request = actors.defining_request(packed, keep_state=False)
            actor = actors.make_actor(engine, name, functions, resources_of(said))
            try:
                self._define(said, name, actor, request, origin)
            except BaseException:
                # What its cell could not make is no actor; the name is free for the next attempt.
                actor.kill()
                raise
        else:
            facts = actors.facts_of(engine, actor, name)
            if facts.digest == origin.digest:
                for kind, payload in engine.wait(actor.call("cell_shown")):
                    replay(kind, payload, sink)
            elif actors.same_notebook(facts, tokens):
                packed = request_of(self.shell, text, take=said.get("in"), there=facts.state, stays=True)
                self._define(said, name, actor, actors.defining_request(packed, keep_state=True), origin)
            else:
                raise actors.taken(name, facts)
        self.shell.user_ns[name] = actors.CellActorHandle(name)
        self._show_line(actors.describe_actor(name, actors.facts_of(engine, actor, name)), sink)

    def _define(self, said: ParsedLine, name: str, actor: Actor, request: CellRequest, origin: Origin) -> None:
        start: Start = lambda on_output: actor.call("cell_define", request, *origin, on_output=on_output)  # noqa: E731
        title = f"%%actor {name}"
        quiet = "quiet" in said.flags
        run_and_show(self.shell, current_engine(), start, name, request=request, quiet=quiet, title=title)

    @staticmethod
    def _show_line(text: str, sink: Sink) -> None:
        sink.display({"text/plain": text}, {}, {}, update=False)

    # ------------------------------------------------------------------------- what cells have shown

    @line_magic
    def logs(self, line: str) -> None:
        """`%logs t42`: show what a cell has shown so far, also after a reload or a restart of the kernel."""
        _name, reader = detached.reader_of("%logs", line)
        detached.show(reader, ShellSink(self.shell))

    @line_magic
    def attach(self, line: str) -> None:
        """`%attach t42`: show what a cell shows until it ends. An interrupt stops the showing, not the cell."""
        name, reader = detached.reader_of("%attach", line)
        sink = ShellSink(self.shell)
        cell = detached.take_detached(name)
        try:
            ending = detached.follow(reader, sink, detached.gone(name, cell))
        except KeyboardInterrupt:
            if cell is not None:
                detached.detach(name, cell)
            raise CellInterrupted(f"{name} runs on; %attach {name} shows it again") from None
        if cell is not None:
            take_over_detached(self.shell, cell, sink)
        elif ending is not None and ending.status == "failed":
            raise named_error("RemoteCellFailed", f"{name} failed", ending.traceback)

    @line_magic
    def tb(self, line: str) -> None:
        """`%tb t42`: show a cell's error with the values of its local variables. Without a number, IPython's own."""
        if not detached.is_number(line):
            self._own_tb(line)
            return
        name, reader = detached.reader_of("%tb", line)
        ShellSink(self.shell).text("stdout", detached.post_mortem(name, reader) + "\n")

    def _own_tb(self, line: str) -> None:
        from IPython.core.magics.basic import BasicMagics

        BasicMagics(self.shell).tb(line)

    # ------------------------------------------------------------------------------------------ the views

    def _view(self, name: str) -> Any:
        state = current_engine().state()
        return views.jobs_view(state, current_engine().job()) if name == "jobs" else views.VIEWS[name](state)

    @line_magic
    def cluster(self, line: str) -> Any:
        """Show the cluster's nodes: what they have, what is used, what waits."""
        return self._view("cluster")

    @line_magic
    def jobs(self, line: str) -> Any:
        """Show what runs and what waits, of all sessions."""
        return self._view("jobs")

    @line_magic
    def actors(self, line: str) -> Any:
        """Show the actors of the cluster."""
        return self._view("actors")

    @line_magic
    def objects(self, line: str) -> Any:
        """Show the names of the cache and the objects in shared memory."""
        return self._view("objects")

    @line_magic
    def gpus(self, line: str) -> Any:
        """Show the GPUs: how busy they are, who holds them."""
        return self._view("gpus")

    @line_magic
    def dashboard(self, line: str) -> Any:
        """Show the cluster live."""
        from atoll.widgets.dashboard import Dashboard

        current_engine().state()  # joins the cluster, or says why it cannot
        return Dashboard()


AtollMagics.remote.__doc__ = grammar.documentation(grammar.REMOTE)
AtollMagics.actor.__doc__ = grammar.documentation(grammar.ACTOR)

"""The way of a `%%cached` cell in the kernel: its key, its entry in the cluster, a hit or a run, and what is said.

One claim decides who computes: the cluster answers with the entry, or lets all but one notebook wait for it. An entry
whose dependencies look different now is dropped and claimed again, as one that is to be made `fresh`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.exceptions import ObjectLostError
from atoll.kernel_ext.actors import notebook_path
from atoll.kernel_ext.cached import reasons
from atoll.kernel_ext.cached.dependencies import (
    ChangedMeanwhile,
    changes,
    dependencies_of,
    named_files,
)
from atoll.kernel_ext.cached.entries import CachedCell, Facts, FactsDirectory, name_of, superseded
from atoll.kernel_ext.cached.files import FileLooks, TooManyFiles
from atoll.kernel_ext.cached.key import CellCode, CellKey, key_of
from atoll.kernel_ext.cached.modules import ModuleFinder
from atoll.kernel_ext.cached.values import Incomparable
from atoll.kernel_ext.capture import CellText, request_of
from atoll.kernel_ext.cell_messages import CellRequest, CellResult
from atoll.kernel_ext.engine.contract import Engine, Options, Running
from atoll.kernel_ext.errors import CellInterrupted, failure_to_raise, one_line
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.lines import Part
from atoll.kernel_ext.namespace_pickle import PackedNames
from atoll.kernel_ext.outputs import ShellSink, replay
from atoll.kernel_ext.records import new_record
from atoll.kernel_ext.remote_cell import after_interrupt, apply_result, run_to_end, state_of
from atoll.kernel_ext.status import Status, StatusLine, describe_run
from atoll.kernel_ext.waiting import Interrupted, OutputQueue, wait_for

TITLE = "%%cached"

_files = FileLooks()
_modules = ModuleFinder(_files)


@dataclass(frozen=True)
class Wanted:
    """What the first line of a cached cell says.

    Attributes:
        keeps: The names that it keeps; empty for all that it sets.
        files: Files that it depends on.
        placement: Options of the task.
        counts: What of the line its result may depend on, as it is written.
        fresh: Whether to run it in any case.
        quiet: Whether to say nothing of hit and miss.
    """

    keeps: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    placement: Options = field(default_factory=dict)
    counts: tuple[tuple[str, Any], ...] = ()
    fresh: bool = False
    quiet: bool = False


class CachedRun:
    """One execution of a cached cell.

    Args:
        shell: IPython's.
        engine: The cluster.
        text: The cell.
        wanted: What its first line says.
    """

    def __init__(self, shell: Any, engine: Engine, text: CellText, wanted: Wanted) -> None:
        self._shell = shell
        self._engine = engine
        self._text = text
        self._wanted = wanted
        self._keeps = list(wanted.keeps or text.names.sets)
        self._sink = ShellSink(shell)
        self._outputs = OutputQueue()
        self._known = FactsDirectory(engine.directory())
        self._notebook = Path(notebook_path(shell.user_ns)).name
        self._doing = ""
        self._status = StatusLine(self._sink, self._describe, enabled=False if wanted.quiet else None)

    def run(self) -> None:
        """Take the cell's entry over, or compute it.

        Raises:
            BaseException: What the cell raised, or why it could not run.
        """
        try:
            key = self._key()
            before = named_files(_files, key.mentions.texts, key.paths, self._wanted.files)
        except Incomparable as error:
            self._run_only(f"what it reads cannot be compared: {error}")
            return
        except TooManyFiles as error:
            raise MagicUsageError(f"files={error} has too many files below it to look at each time") from None
        missing = [path for path in self._wanted.files if before[path] == "absent"]
        if missing:
            raise MagicUsageError(f"files={missing[0]}: there is no such file")
        name = name_of(self._keeps, key)
        reason = ""
        fresh = self._wanted.fresh
        while True:
            claim, ref = self._claim(name)
            if ref is None:
                break
            reason = "asked for with fresh" if fresh else self._take_over(name, ref, key)
            if not reason:
                return
            self._engine.drop(name)
            fresh = False
        try:
            self._compute(name, key, before, reason or self._reason(key))
        finally:
            claim.cancel()  # says nothing where the entry is published

    def _key(self) -> CellKey:
        cell = CellCode(
            self._text.code,
            self._text.names,
            self._shell.displayhook.semicolon_at_end_of_expression(self._text.body),
            self._shell.compile.flags,
        )
        return key_of(cell, self._shell.user_ns, self._keeps, _modules, self._wanted.counts)

    def _claim(self, name: str) -> tuple[Running, Any]:
        """Ask for the entry; waits while another notebook computes it."""
        claim = self._engine.claim(name)
        self._doing = ""
        try:
            ref = wait_for(claim, OutputQueue(), self._sink, self._status)
        except Interrupted:
            self._status.end("cancelled", "cached: interrupted")
            raise CellInterrupted("the wait was given up; the other notebook goes on") from None
        except Exception as error:
            raise one_line(error) from None
        return claim, ref

    # --------------------------------------------------------------------------------------- hit

    def _take_over(self, name: str, ref: Any, key: CellKey) -> str:
        """Take an entry over, or return why it does not hold any more."""
        facts = self._known.read(name)
        if facts is None or facts.digest != key.digest or facts.object_id != ref.binary().hex():
            return "what is kept is of another run"
        changed = changes(facts.dependencies, _files, _modules, os.environ, self._engine.object_of)
        if changed:
            return reasons.sentence(reasons.changed_things(changed))
        try:
            entry = self._engine.value(ref)
        except ObjectLostError:
            return "what was kept is lost"
        if not isinstance(entry, CachedCell):
            return "what is kept is no cell's"
        for kind, payload in entry.shown:
            replay(kind, payload, self._sink)
        apply_result(self._shell, entry.result, self._sink, PackedNames(b""), ref)
        self._say("done", reasons.hit(facts, self._engine.job(), time.time()), facts.notes)
        return ""

    # -------------------------------------------------------------------------------------- miss

    def _reason(self, key: CellKey) -> str:
        """Return why there is no entry for the key."""
        there = [info.name for info in self._engine.names()]
        known = self._known.all(there)
        before = reasons.nearest(key, self._keeps, self._notebook, known)
        if before is None:
            return "nothing kept yet"
        return reasons.sentence(reasons.differences(before.parts, key.parts)) or "what was kept is gone"

    def _compute(self, name: str, key: CellKey, before: Mapping[str, str], reason: str) -> None:
        variables = dict(os.environ)
        started = time.time()
        entry, ref = self._run_there(reason)
        result = entry.result
        seconds = time.time() - started
        why_not = ""
        notes = reasons.notes_of(key, entry.observed.notes)
        try:
            _check_result(self._wanted.keeps, result)
            _check_modules(key)
            dependencies = dependencies_of(before, entry.observed, variables, _files)
            facts = Facts(
                name,
                ref.binary().hex(),
                self._keeps,
                key.digest,
                list(key.parts),
                dependencies,
                self._notebook,
                self._engine.job(),
                started,
                seconds,
                notes,
            )
            self._known.write(facts)
            self._engine.publish(name, ref)
            self._drop_superseded(facts)
        except ChangedMeanwhile as error:
            why_not = str(error)
        except Exception as error:  # a full store must not cost the result that is there
            why_not = f"{type(error).__name__}: {error}"
        apply_result(self._shell, result, self._sink, PackedNames(b""), ref)
        if why_not:
            self._say("done", [f"cached: not kept ({why_not})"])
        else:
            self._say("done", reasons.miss(reason, self._keeps, seconds), notes, result.changed)

    def _run_only(self, why: str) -> None:
        """Run the cell and keep nothing."""
        entry, ref = self._run_there(why)
        apply_result(self._shell, entry.result, self._sink, PackedNames(b""), ref)
        self._say("done", [f"cached: not kept ({why})"])

    def _run_there(self, reason: str) -> tuple[CachedCell, Any]:
        """Run the cell in a worker, its output shown here."""
        request = self._request()
        self._doing = reason
        placement = self._wanted.placement
        status = self._status
        entry: Any
        try:
            entry, ref = run_to_end(
                lambda on_output: self._engine.run_cached(request, placement, TITLE, on_output),
                self._outputs,
                self._sink,
                status,
            )
        except Interrupted as interrupted:
            status.end("cancelled", "cached: interrupted")
            result, _origin = after_interrupt(interrupted, request, TITLE)
            raise failure_to_raise(result, self._shell.user_ns, TITLE) from None
        except Exception as error:
            status.end("failed", "cached: failed")
            raise one_line(error) from None
        if isinstance(entry, CellResult):
            status.end("failed", "cached: failed")
            raise failure_to_raise(entry, self._shell.user_ns, TITLE) from None
        return entry, ref

    def _describe(self, elapsed_s: float) -> Status:
        """Return what the line says while the user waits."""
        if not self._doing:
            return Status.of("waiting", "cached: another notebook computes it", "waits")
        run = describe_run(state_of(self._engine), self._engine.job(), TITLE, elapsed_s, self._outputs.progress)
        return Status(run.state, (Part(f"cached: miss ({self._doing})"), *run.parts))

    def _request(self) -> CellRequest:
        request = request_of(self._shell, self._text, bring=self._wanted.keeps or None, apart=True)
        directory = self._engine.directory()
        request.record = new_record(directory) if directory else ""
        return request

    def _drop_superseded(self, facts: Facts) -> None:
        for name in superseded(self._known.all(), facts):
            self._engine.drop(name)
            self._known.remove(name)

    def _say(self, state: str, parts: Iterable[str], notes: Iterable[str] = (), changed: Iterable[str] = ()) -> None:
        if not self._wanted.quiet:
            self._status.conclude(state, *parts, reasons.hints(notes, changed))


def _check_result(keeps: tuple[str, ...], result: CellResult) -> None:
    """Raise `ChangedMeanwhile` if a result cannot be kept."""
    lost = [name for name in keeps if name in result.left_out] or list(result.left_out)
    if lost:
        raise ChangedMeanwhile(f"{lost[0]}: {result.left_out[lost[0]]}")
    if result.names.refs:
        raise ChangedMeanwhile("it holds an ObjectRef, whose object would go with this kernel")


def _check_modules(key: CellKey) -> None:
    """Raise `ChangedMeanwhile` if a module was edited while the cell ran."""
    before = {part.name: part.digest for part in key.parts if part.kind == "module"}
    now = _modules.look(before).own
    for name, digest in before.items():
        if now.get(name) != digest:
            raise ChangedMeanwhile(f"the module {name} changed while the cell ran")

"""What runs a cell in a worker: a namespace is made of what came, the cell runs, what it set goes back.

`run_cell` is the task of a `%%remote` cell. `CellHost` keeps its namespace between cells; an actor has one.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import os
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from atoll.exceptions import AtollError
from atoll.kernel_ext.buffers import SHARED_BYTES, StoredBuffer, arrived
from atoll.kernel_ext.cell_course import ATTEMPT, Attempt, course_of, encode
from atoll.kernel_ext.cell_messages import (
    EXCEPTION,
    LAST,
    STDERR,
    CellFailure,
    CellRequest,
    CellResult,
    RemoteCellError,
)
from atoll.kernel_ext.given import NOTHING, Changes, Given, pack_result, reaching
from atoll.kernel_ext.local_modules import after_cell, before_cell
from atoll.kernel_ext.namespace_pickle import Namespace, PackedNames, pack_names, unpack_names
from atoll.kernel_ext.post_mortem import frames_of
from atoll.kernel_ext.records import Ending, Recorder, RecordReader, directory_of
from atoll.kernel_ext.time_limit import OVERTIME, CellTimeoutError, TimeLimit
from atoll.kernel_ext.worker_output import Emit, OutputPort, WorkerStreams

_RESULTS = {"_", "__", "___"}
"""Names that IPython sets, and that a cell may set as well."""

_streams: WorkerStreams | None = None


def run_cell(request: CellRequest) -> CellResult:
    """Run a cell in a namespace of its own: the task behind `%%remote`.

    Raises:
        RemoteCellError: The cell raised.
    """
    from atoll.client.context import emit_output

    began = before_cell()
    try:
        return finish(run_recorded(CellHost(), request, emit_output), request.record)
    finally:
        after_cell(began)


def run_recorded(host: CellHost, request: CellRequest, emit: Emit, keep: Iterable[str] = ()) -> CellResult:
    """Run a cell, and keep what it shows and how it ends where its kernel has taken a number for it."""
    if not request.record:
        return host.run(request, emit, keep)
    from atoll.client.current import current_session

    directory = current_session().cluster.directory
    return run_with(host, request, Recorder(directory_of(directory) / request.record, emit), keep)


def run_with(host: CellHost, request: CellRequest, recorder: Recorder, keep: Iterable[str] = ()) -> CellResult:
    """Run a cell, and record what it shows and how it ends.

    Returns:
        The result; without values, if these are kept by the cluster.

    Raises:
        ObjectStoreFullError: There is no room for what is to be kept.
    """
    _begin_attempt(recorder, request.record)
    ending = Ending("failed", kind="WorkerCrashedError", text="the worker ended")
    try:
        result = host.run(request, recorder.emit, keep, recorder.keep)
        ending = _ending_of(result)
        if result.failure is not None:
            result.failure.frames = []  # they are for whoever asks
        if request.kept:
            from atoll.kernel_ext.background.kept import keep as keep_result

            if result.failure is not None and result.failure.error is not None and result.failure.error.refs:
                result.failure.error = None  # it is shown by its text: what it refers to goes with this process
            keep_result(request.record, result)
            result = without_values(result)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        ending = Ending("failed", [text], kind=type(error).__name__, text=str(error))
        raise
    finally:
        # Whoever reads that it has ended finds its values.
        recorder.end(ending)
    return result


def _ending_of(result: CellResult) -> Ending:
    failure, names, where = result.failure, list(result.bound), f"{result.node} (pid {result.pid})"
    if failure is None:
        return Ending("done", names=names, seconds=result.seconds, where=where)
    return Ending(
        "failed",
        failure.traceback,
        failure.frames,
        failure.kind,
        failure.text,
        names,
        result.seconds,
        where,
    )


def without_values(result: CellResult) -> CellResult:
    """Return what is said of a cell without what it has set."""
    failure = result.failure
    if failure is not None:
        failure = CellFailure(failure.kind, failure.text, failure.traceback)
    return CellResult(pack_names({}, {}), failure=failure, seconds=result.seconds, pid=result.pid, node=result.node)


def _begin_attempt(recorder: Recorder, record: str) -> None:
    """Note where a cell begins; say so where it is not the first time, since what it has shown before stays."""
    from atoll.client.current import current_session

    try:
        before = len(course_of(RecordReader(current_session().cluster.directory, record)).attempts)
    except FileNotFoundError:  # the records of old cells are removed
        before = 0
    recorder.note(ATTEMPT, encode(Attempt(os.uname().nodename, os.getpid(), time.time())))
    if before:
        text = f"[attempt {before + 1}: the worker of the attempt before it is gone]\n"
        recorder.emit(STDERR, text.encode())


def finish(result: CellResult, record: str = "") -> CellResult:
    """Return the result, or raise it if the cell failed, so that the cluster counts the task as failed.

    An error travels as one piece of bytes. Large values of a cell that failed go past it, through shared memory.

    Args:
        result: Of the cell.
        record: The cell's number, if its kernel takes up what the cluster keeps under it.
    """
    if result.failure is None:
        return result
    if record and any(memoryview(buffer).nbytes >= SHARED_BYTES for buffer in result.names.buffers):
        result = _left_with_the_cluster(record, result)
    raise RemoteCellError(result)


def _left_with_the_cluster(record: str, result: CellResult) -> CellResult:
    """Have the cluster keep a result until its kernel takes it; return what is told of it."""
    from atoll.kernel_ext.background.kept import keep

    error = result.failure.error if result.failure is not None else None
    if result.names.refs or (error is not None and error.refs):
        return result  # what these refer to goes with this process, so nobody else can keep them
    try:
        keep(record, result)
    except AtollError:  # there is no room: it travels as bytes
        return result
    told = without_values(result)
    told.kept = record
    return told


class CellHost:
    """A namespace in which cells run.

    Attributes:
        module: Stands for `__main__` while a cell runs; its `__dict__` is the namespace.
    """

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__builtins__"] = builtins

    @property
    def namespace(self) -> Namespace:
        """What the cells' code has as its globals."""
        return self.module.__dict__

    def run(
        self, request: CellRequest, emit: Emit, keep: Iterable[str] = (), unshown: Emit | None = None
    ) -> CellResult:
        """Run a cell and collect what came of it.

        Args:
            request: The cell.
            emit: Sends its output while it runs.
            keep: Names that stay here unless the cell's first line asks for them: an actor's state.
            unshown: Records output that is too much to be sent, if anything is recorded.
        """
        from atoll.kernel_ext.worker_shell import worker_shell

        shell = worker_shell()
        self.namespace.update(shell.furniture)
        self._take(request)
        # The snapshot is taken when everything is in place, so that only the cell makes a difference.
        before = dict(self.namespace)
        given = Given(request.names.known, self.namespace)
        port = OutputPort(emit, unshown, request.record if unshown is not None else "")
        started = time.perf_counter()
        limit = TimeLimit(request.timeout_s, lambda: emit(OVERTIME, b""))
        with at_home(request), InPlace(self.module, port), limit.running():
            error = shell.run_request(request, self.module, port)
        if limit.passed and isinstance(error, KeyboardInterrupt):
            error = CellTimeoutError(request.timeout_s).with_traceback(error.__traceback__)
            shell.cell_traceback = shell.traceback_lines(error, skip=1)
        seconds = time.perf_counter() - started
        after = {**self.namespace}
        if shell.displayhook.last is not None and request.keep_last:
            after[LAST] = shell.displayhook.last
        result = self._collect(
            request, before, after, given.compare(), frozenset(keep), set(shell.furniture) - _RESULTS
        )
        shell.displayhook.last = None
        result.seconds, result.pid, result.node = seconds, os.getpid(), os.uname().nodename
        if error is not None:
            result.failure = failure_of(error, shell.cell_traceback, self.namespace)
            if request.record:
                result.failure.frames = frames_of(error, shell.compile._filename_map, shell.furniture)
        return result

    def _take(self, request: CellRequest) -> None:
        """Put what came into the namespace."""
        names = request.names
        if any(isinstance(buffer, StoredBuffer) for buffer in names.buffers):
            from atoll.api import get

            names.buffers = arrived(names.buffers, get)
        for record, wanted in request.from_cells.items():
            self._take_from_cell(record, wanted)
        given = unpack_names(names, self.namespace, remember=True)
        for name, module in request.modules.items():
            given[name] = importlib.import_module(module)
        self.namespace.update(given)

    def _take_from_cell(self, record: str, wanted: tuple[str, ...]) -> None:
        """Put into the namespace what a background cell has set."""
        from atoll.kernel_ext.background.kept import kept

        result, ref = kept(record)
        values = unpack_names(result.names, self.namespace, origin=ref)
        for name in wanted:
            if name in result.modules:
                self.namespace[name] = importlib.import_module(result.modules[name])
            elif name in values:
                self.namespace[name] = values[name]

    def _collect(
        self,
        request: CellRequest,
        before: Namespace,
        after: Namespace,
        changes: Changes,
        keep: frozenset[str],
        furniture: set[str],
    ) -> CellResult:
        """Pack what goes back."""
        apart = request.apart or request.bring is not None
        wanted: Callable[[str], bool]
        if request.bring is None:
            wanted = lambda name: name not in keep  # noqa: E731
        else:
            bring = {*request.bring, LAST}
            wanted = lambda name: name in bring  # noqa: E731
        anew = reaching(before, changes.changed, self.namespace) if apart else changes.unfit
        fresh = {
            name: value
            for name, value in after.items()
            if (name == LAST or name not in furniture)
            and not name.startswith("__")
            and (name not in before or before[name] is not value or id(value) in anew)
        }
        values: Namespace = {}
        modules: dict[str, str] = {}
        for name, value in fresh.items():
            if not wanted(name):
                continue
            if isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
                modules[name] = value.__name__
            elif not _is_spent(value):
                values[name] = value
        carry = set(fresh) - keep
        packed, left_out = pack_result(values, NOTHING if apart else changes, self.namespace, carry)
        left_out.pop(LAST, None)
        if request.kept and packed.refs:
            packed, refers = _without_refs(values, self.namespace, carry, set(left_out))
            left_out.update(refers)
        missing = {name: "the cell does not set it" for name in request.bring or () if name not in after}
        deleted = tuple(name for name in before if name not in after and name not in keep)
        bound = tuple(name for name in values if name != LAST and name not in left_out)
        changed = tuple(name for name in before if name in fresh and id(before[name]) in anew and not wanted(name))
        return CellResult(packed, modules, deleted, {**left_out, **missing}, changed=changed, bound=bound)


def _without_refs(
    values: Namespace, home: Namespace, carry: set[str], left_out: set[str]
) -> tuple[PackedNames, dict[str, str]]:
    """Pack what can be kept by the cluster: no references, whose objects go with the process that made them."""
    fit: Namespace = {}
    reasons = {}
    for name, value in values.items():
        if name in left_out:
            continue
        if pack_names({name: value}, home, carry).refs:
            reasons[name] = "it refers to an object that goes with the cell's process; get its value first"
        else:
            fit[name] = value
    reasons.pop(LAST, None)
    return pack_names(fit, home, carry), reasons


class InPlace:
    """While a cell runs, the process's streams, `__main__` and `input` are the cell's."""

    def __init__(self, module: types.ModuleType, port: OutputPort) -> None:
        global _streams
        if _streams is None:
            _streams = WorkerStreams()
        self._streams = _streams
        self._module = module
        self._port = port

    def __enter__(self) -> None:
        self._main = sys.modules.get("__main__")
        self._input = builtins.input
        sys.modules["__main__"] = self._module
        builtins.input = _no_input
        self._streams.begin(self._port)

    def __exit__(self, *_exception: object) -> None:
        self._streams.end()
        self._port.close()
        builtins.input = self._input
        if self._main is not None:
            sys.modules["__main__"] = self._main


@contextlib.contextmanager
def at_home(request: CellRequest) -> Iterator[None]:
    """While the context lasts, be where the cell's notebook is now, with the environment variables that it has."""
    before = {name: os.environ.get(name) for name in request.variables}
    directory = os.getcwd() if request.directory else ""  # noqa: PTH109
    _set_variables(request.variables)
    if directory:
        os.chdir(request.directory)
    try:
        yield
    finally:
        _set_variables(before)
        if directory:
            os.chdir(directory)


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _no_input(prompt: object = "") -> NoReturn:
    raise RuntimeError("a remote cell cannot ask for input; ask in a cell of the notebook and use the answer here")


def _is_spent(value: Any) -> bool:
    """Whether a value is of no use to anybody: what `with open(...) as f` leaves behind."""
    return isinstance(value, io.IOBase) and value.closed


def failure_of(error: BaseException, lines: list[str] | None, namespace: Namespace) -> CellFailure:
    """Return what a kernel needs to raise and show an error of a cell or of an actor's function."""
    packed: PackedNames | None
    try:
        packed = pack_names({EXCEPTION: error}, namespace, ())
    except Exception:  # its text and traceback travel anyway
        packed = None
    try:
        text = str(error)
    except Exception as inner:
        text = f"<its text cannot be made: {type(inner).__name__}>"
    kind = type(error).__name__
    return CellFailure(kind, text, lines if lines is not None else [f"{kind}: {text}"], packed)

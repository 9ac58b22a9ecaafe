"""A cell's namespace that lives on in a process of its own: what `%%actor` makes. This side runs in the worker.

The actor is made empty, then its cell runs in it as any cell does, so that what it prints is seen while it runs. Its
functions can be called in two ways:

    llm.generate(x)                          through `CellActor.cell_call`: prints show in the calling cell, errors
                                             have the cells' own lines
    atoll.get_actor("llm").generate.remote(x)    as any actor's method: `actor_class` declares the cell's functions
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from atoll.kernel_ext.cell_messages import LAST, CellRequest, CellResult, RemoteCellError
from atoll.kernel_ext.cell_runner import CellHost, InPlace, failure_of, finish, run_recorded
from atoll.kernel_ext.namespace_pickle import PackedNames, pack_names, unpack_names
from atoll.kernel_ext.worker_output import OutputPort
from atoll.plain_text import duration

KEPT_OUTPUT_BYTES = 1 << 20
"""How much of the output of an actor's cell is kept for whoever runs the same cell again."""


@dataclass
class ActorFacts:
    """What is known of an actor made by a cell.

    Attributes:
        state: Names that its cell has set.
        functions: Those that can be called, with their signatures, in the order of definition.
        digest: Of the cell's code.
        origins: What tells the notebook that made it.
        place: That notebook, for people.
    """

    state: tuple[str, ...] = ()
    functions: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    origins: tuple[str, ...] = ()
    place: str = ""


class CellActor:
    """The namespace of an `%%actor` cell. One call at a time."""

    def __init__(self) -> None:
        self._idle = _IdleWatch()
        self._host = CellHost()
        self._state: dict[str, None] = {}
        self._functions: dict[str, None] = {}
        self._facts = ActorFacts()
        self._shown: list[tuple[str, bytes]] = []

    def cell_define(
        self,
        request: CellRequest,
        functions: tuple[str, ...],
        digest: str,
        origins: tuple[str, ...],
        place: str,
        idle_s: float = 0.0,
    ) -> CellResult:
        """Run the cell that makes the actor, or that updates its functions.

        Args:
            request: The cell.
            functions: Those that it defines, without the private ones.
            digest: See `ActorFacts`; so for the others.
            origins: See there.
            place: See there.
            idle_s: The actor ends when nobody has used it for so long; 0 for never.

        Raises:
            RemoteCellError: The cell raised.
        """
        from atoll.client.context import emit_output

        shown: list[tuple[str, bytes]] = []
        size = 0

        def emit(kind: str, payload: bytes) -> None:
            nonlocal size
            size += len(payload)
            if size <= KEPT_OUTPUT_BYTES:
                shown.append((kind, payload))
            emit_output(kind, payload)

        before = set(self._host.namespace)
        with self._idle.busy():
            result = self._host.run(request, emit)
        if result.failure is None:
            self._idle.limit(idle_s)
            furniture = _furniture()
            own = {name: None for name in self._host.namespace if name not in furniture and not name.startswith("__")}
            taken = before - set(self._state)
            self._state.update({name: None for name in own if name not in taken})
            self._functions.update(dict.fromkeys(functions))
            self._facts = ActorFacts(digest=digest, origins=origins, place=place)
            if not request.keep_state:
                self._shown = shown
        return finish(_without_values(result))

    def cell_facts(self) -> ActorFacts:
        """Return what is known of the actor."""
        facts = self._facts
        facts.state = tuple(self._state)
        facts.functions = {
            name: _signature(value) for name in self._functions if callable(value := self._host.namespace.get(name))
        }
        return facts

    def cell_shown(self) -> list[tuple[str, bytes]]:
        """Return what the cell that made the actor has shown."""
        return self._shown

    def cell_run(self, request: CellRequest) -> CellResult:
        """Run a cell beside the actor's state: `%%remote on=...`.

        Raises:
            RemoteCellError: The cell raised.
        """
        from atoll.client.context import emit_output

        with self._idle.busy():
            return finish(run_recorded(self._host, request, emit_output, keep=self._state), request.record)

    def cell_call(self, name: str, arguments: PackedNames) -> PackedNames:
        """Call one of the cell's functions.

        Args:
            name: The function.
            arguments: `args` and `kwargs`.

        Returns:
            Its value, under `LAST`.

        Raises:
            RemoteCellError: It raised, or there is none.
        """
        from atoll.client.context import emit_output
        from atoll.kernel_ext.worker_shell import worker_shell

        # What functions among the arguments read stays with them and does not touch the actor's own names.
        given = unpack_names(arguments, {"__name__": "__main__"})
        shell = worker_shell()
        port = OutputPort(emit_output)
        module = self._host.module
        with self._idle.busy(), InPlace(module, port):
            try:
                value = shell.call(
                    lambda: self._function(name)(*_resolved(given["args"]), **given["kwargs"]), module, port
                )
                return pack_names({LAST: value}, self._host.namespace)
            except BaseException as error:
                failure = failure_of(error, shell.traceback_lines(error, skip=0), self._host.namespace)
        raise RemoteCellError(_failed(failure))

    def cell_value(self, name: str) -> PackedNames:
        """Return the value of a variable, under `LAST`.

        Raises:
            KeyError: There is none.
        """
        return pack_names({LAST: self._host.namespace[name]}, self._host.namespace)

    def _function(self, name: str) -> Callable[..., Any]:
        value = self._host.namespace.get(name)
        if not callable(value):
            known = ", ".join(self.cell_facts().functions) or "none"
            raise AttributeError(f"this actor has no function {name!r}; its functions are: {known}")
        function: Callable[..., Any] = value
        return function

    def cell_apply(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function as a method of the API's: values and errors travel as any task's."""
        with self._idle.busy():
            return self._function(name)(*_resolved(args), **kwargs)

    def cell_leave_if_idle(self) -> None:
        """End the actor if nobody has used it for as long as it may be idle. What its cell's watch calls."""
        if self._idle.is_over():
            from atoll.actor import ActorExit

            raise ActorExit(
                f"nobody has used it for {duration(self._idle.limit_s)}; run its cell again to have it back"
            )


class _IdleWatch:
    """Has the actor ended when nobody has used it for a while.

    A thread looks now and then, and when the time is over it calls the actor: the call comes behind those that wait,
    and looks once more. So nothing that was asked is lost.
    """

    def __init__(self) -> None:
        self.limit_s = 0.0
        self._used_at = time.monotonic()
        self._users = 0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While the context lasts, it is used."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._used_at = time.monotonic()

    def limit(self, limit_s: float) -> None:
        """Set how long it may be idle; 0 for ever."""
        self.limit_s = limit_s
        if limit_s and self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="atoll-idle", daemon=True)
            self._thread.start()

    def is_over(self) -> bool:
        """Whether it has been idle for as long as it may."""
        return bool(self.limit_s) and not self._users and time.monotonic() - self._used_at >= self.limit_s

    def _watch(self) -> None:
        from atoll.runtime_context import get_runtime_context

        me = get_runtime_context().current_actor
        while True:
            left_s = self._used_at + self.limit_s - time.monotonic() if self.limit_s and not self._users else 1.0
            time.sleep(min(max(left_s, 0.05), 60.0))
            if self.is_over():
                me.cell_leave_if_idle.options(name="(leaves)").remote()
                time.sleep(1.0)


def actor_class(name: str, functions: tuple[str, ...]) -> type[CellActor]:
    """Return a class of actors that declares a cell's functions as methods, for handles that are made by name."""

    def method(function: str) -> Callable[..., Any]:
        def call(self: CellActor, *args: Any, **kwargs: Any) -> Any:
            return self.cell_apply(function, args, kwargs)

        call.__name__ = call.__qualname__ = function
        return call

    taken = set(dir(CellActor))
    body: dict[str, Any] = {function: method(function) for function in functions if function not in taken}
    body["__doc__"] = f"Made by a cell: %%actor {name}"
    return type(name, (CellActor,), body)


def _resolved(arguments: tuple[Any, ...]) -> list[Any]:
    """Return arguments with refs replaced by their values, as for any method."""
    from atoll.kernel_ext.namespace_pickle import object_ref_class

    kind = object_ref_class()
    if kind is None or not any(isinstance(argument, kind) for argument in arguments):
        return list(arguments)
    import importlib

    get = importlib.import_module("atoll").get
    return [get(argument) if isinstance(argument, kind) else argument for argument in arguments]


def _signature(function: Callable[..., Any]) -> str:
    """Return the parameters as people read them: `(rows, limit=10)`."""
    import inspect

    signature = inspect.signature(function)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(plain))


def _furniture() -> dict[str, Any]:
    from atoll.kernel_ext.worker_shell import worker_shell

    return worker_shell().furniture


def _without_values(result: CellResult) -> CellResult:
    """Return the result of the cell that makes an actor: what it set stays there."""
    result.names, result.modules, result.deleted = PackedNames(_NO_NAMES), {}, ()
    result.left_out = {}
    return result


def _failed(failure: Any) -> CellResult:
    import os

    return CellResult(PackedNames(_NO_NAMES), failure=failure, pid=os.getpid(), node=os.uname().nodename)


_NO_NAMES = pack_names({}, {}).data

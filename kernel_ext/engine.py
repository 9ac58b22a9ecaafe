"""What this room asks of a cluster: the one place where it touches the client's API.

`Engine` is the contract, `AtollEngine` the cluster behind `import atoll`. Everything above works with the contract.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, Protocol

import msgspec

from atoll.environment import filter_variables
from atoll.exceptions import ClusterError
from atoll.kernel_ext.buffers import DEFAULT_KEPT_BYTES, SharedMemory, came_by_name, name_is_gone
from atoll.kernel_ext.cell_code import code_of
from atoll.kernel_ext.cell_messages import CellRequest, CellResult
from atoll.protocol.explanation import Explanation
from atoll.protocol.state import ActorState, ClusterState, DemandState, LeaseState, NodeState
from atoll.protocol.usage import UsageReport
from atoll.protocol.values import Environment, NameInfo

OnOutput = Callable[[str, bytes], None]
"""Takes a piece of output, in order, in some thread of the client."""


Options = Mapping[str, Any]
"""Options of a task or an actor, as `atoll.remote` takes them."""


class Glance(msgspec.Struct, frozen=True):
    """The part of a `ClusterState` that lines about cells are made of; the rest, the largest, is not even read."""

    now: float
    nodes: list[NodeState]
    leases: list[LeaseState]
    actors: list[ActorState]
    demands: list[DemandState]


read_glance = msgspec.json.Decoder(Glance).decode


class Running(Protocol):
    """Something that runs on the cluster."""

    @property
    def future(self) -> Future[Any]:
        """Resolves to its value or error, after all of its output was delivered."""
        ...

    @property
    def ref(self) -> Any:
        """The `ObjectRef` of its value."""
        ...

    def cancel(self, *, force: bool = False) -> None:
        """Interrupt it; with `force`, end its process."""
        ...


class Actor(Protocol):
    """A named actor, alive when it was found."""

    @property
    def class_name(self) -> str:
        """For people."""
        ...

    def call(self, method: str, *arguments: Any, on_output: OnOutput | None = None, label: str = "") -> Running:
        """Call a method.

        Args:
            method: Its name.
            *arguments: What it takes.
            on_output: Takes its output.
            label: What people see; one in parentheses for what is not of a user's making.
        """
        ...

    def kill(self) -> None:
        """End it; its name is free when this returns."""
        ...


class Engine(Protocol):
    """A cluster."""

    def run_cell(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> Running:
        """Run a cell in a worker.

        Args:
            request: The cell.
            options: Of the task.
            label: What it is called.
            on_output: Takes its output.
        """
        ...

    def begin_cell(self, request: CellRequest, options: Options, label: str, waits: tuple[str, ...]) -> None:
        """Have a cell run that outlives this kernel: what comes of it is found under the request's number.

        Args:
            request: The cell.
            options: Of a task.
            label: What people see.
            waits: Numbers of the cells that must have ended first.

        Raises:
            TaskUnschedulableError: No node can ever give the resources.
        """
        ...

    def end_cell(self, record: str) -> None:
        """End such a cell's process, if it is there."""
        ...

    def kept(self, record: str) -> tuple[CellResult, Any]:
        """Return what such a cell has set, and the ref of that.

        Raises:
            KeyError: It is not kept.
        """
        ...

    def forget(self, record: str) -> None:
        """Drop what such a cell has set."""
        ...

    def sweep(self) -> None:
        """Drop what is kept of such cells whose records are gone."""
        ...

    def run_cached(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> Running:
        """Run a cell in a worker, watched; its value is a `CachedCell`."""
        ...

    def claim(self, name: str) -> Running:
        """Ask for the object of a name, or for the duty to make it: the future's value is its ref, or None.

        It waits while another process makes it. To cancel gives the claim up, also when it was answered.
        """
        ...

    def publish(self, name: str, ref: Any) -> None:
        """Give a name to an object, which belongs to the cluster from now on.

        Raises:
            Exception: The cluster cannot keep it.
        """
        ...

    def drop(self, name: str) -> bool:
        """Take a name away; False if there is none."""
        ...

    def value(self, ref: Any) -> Any:
        """Return an object's value.

        Raises:
            ObjectLostError: It is gone.
        """
        ...

    def object_of(self, name: str) -> str:
        """Return the id of the object that has a name, in hex; empty for none. Waits for one that is being made."""
        ...

    def names(self) -> list[NameInfo]:
        """Return all names of the cluster."""
        ...

    def find_actor(self, name: str) -> Actor | None:
        """Return the actor that has the name."""
        ...

    def make_actor(self, kind: type, name: str, options: Options, *arguments: Any) -> Actor:
        """Make a named actor that outlives this kernel.

        Raises:
            Exception: The name is taken, or no node can give the resources.
        """
        ...

    def wait(self, running: Running) -> Any:
        """Return the value of something that runs.

        Raises:
            Exception: What it raised.
        """
        ...

    def state(self) -> ClusterState:
        """Return the cluster's state."""
        ...

    def why(self, of: Any) -> Explanation:
        """Return where a ref, or an actor's handle of the API, stands."""
        ...

    def why_all(self) -> list[Explanation]:
        """Return why each of the things waits that wait, of all notebooks."""
        ...

    def simulate(self, options: Options) -> Explanation:
        """Return what would become of a task with these options now."""
        ...

    def usage(self) -> UsageReport:
        """Return what notebooks, cells and actors have held and used."""
        ...

    def release_gpu(self, gpu: str) -> None:
        """Have a quarantined GPU given again.

        Args:
            gpu: Its number, `NODE:NUMBER`, or its UUID.

        Raises:
            AtollError: There is no such GPU, or it is not quarantined.
        """
        ...

    def glance(self) -> Glance:
        """Return the part of the cluster's state that lines about cells need. Never begins a session.

        Raises:
            ClusterLostError: The cluster is gone, or was left.
        """
        ...

    def job(self) -> str:
        """Return this session's id, in hex."""
        ...

    def cluster_id(self) -> str:
        """Return the id of the cluster."""
        ...

    def directory(self) -> str:
        """Return the directory of the cluster, where the output of cells is kept; empty for none."""
        ...


def changed_variables(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that are others now; None for those that are gone."""
    changed: dict[str, str | None] = {name: value for name, value in now.items() if before.get(name) != value}
    return changed | {name: None for name in before if name not in now}


class _Task:
    """A task or an actor's method that was called."""

    def __init__(self, api: Any, ref: Any) -> None:
        self._api = api
        self.ref = ref
        self.future: Future[Any] = ref.future()

    def cancel(self, *, force: bool = False) -> None:
        """See `Running`."""
        self._api.cancel(self.ref, force=force)


class _NameClaim:
    """A claim of a name: a thread waits for the answer."""

    def __init__(self, session: Any, name: str) -> None:
        self._session = session
        self._name = name
        self._request: int = session.next_request()
        self.ref: Any = None
        self.future: Future[Any] = Future()
        threading.Thread(target=self._ask, name="atoll-claim", daemon=True).start()

    def _ask(self) -> None:
        from atoll.client import names

        try:
            answer = names.claim(self._session, self._name, compute=True, request=self._request)
        except BaseException as error:
            self.future.set_exception(error)
            return
        if answer.location is not None:
            self.ref = self._session.refer_to(answer.location)
            came_by_name(self._name, self.ref)
        elif not answer.compute:
            self.future.set_exception(CancelledError())
            return
        self.future.set_result(self.ref)

    def cancel(self, *, force: bool = False) -> None:
        """See `Running`."""
        from atoll.client import names

        names.withdraw(self._session, self._name, self._request)


_LABELS = {
    "cell_define": "(its cell)",
    "cell_facts": "(facts)",
    "cell_shown": "(output)",
    "cell_value": "(value)",
}
"""What people see of the calls that are not of a user's making."""


class _Handle:
    """An actor behind the API's handle."""

    def __init__(self, api: Any, handle: Any, class_name: str, share: Callable[[CellRequest], None]) -> None:
        self._api = api
        self._share = share
        self._handle = handle
        self.class_name = class_name

    def call(self, method: str, *arguments: Any, on_output: OnOutput | None = None, label: str = "") -> _Task:
        """See `Actor`."""
        function = getattr(self._handle, method)
        for argument in arguments:
            if isinstance(argument, CellRequest):
                self._share(argument)
        options: dict[str, Any] = {"name": label or _LABELS.get(method)}
        if on_output is not None:
            options["_on_output"] = on_output
        return _Task(self._api, function.options(**options).remote(*arguments))

    def kill(self) -> None:
        """See `Actor`."""
        self._api.kill(self._handle)


class AtollEngine:
    """The cluster of this user, joined at the first use and started if there is none."""

    def __init__(self) -> None:
        self._run_cell: Any = None
        self._run_cached: Any = None
        self._memory: SharedMemory | None = None
        self._memory_of: Any = None

    def _api(self) -> Any:
        api = importlib.import_module("atoll")
        if not api.is_initialized():
            try:
                api.init()
            except (ClusterError, ValueError) as error:  # a setting that cannot be read, say: the message says it all
                from atoll.kernel_ext.errors import one_line

                raise one_line(error) from None
        return api

    def _share(self, request: CellRequest) -> None:
        """Put what is large in a request into the store, unless it is there."""
        api = self._api()
        from atoll.client.current import current_session

        session = current_session()
        if self._memory is None or self._memory_of is not session:
            self._memory, self._memory_of = SharedMemory(api.put, api.get, DEFAULT_KEPT_BYTES), session
        request.names.buffers = self._memory.share(request.names.buffers)
        at_start: Environment | None = session.introduction.environment
        if at_start is not None:
            request.variables = changed_variables(at_start.variables, filter_variables(os.environ))
            here = os.getcwd()  # noqa: PTH109
            request.directory = here if here != at_start.working_directory else ""

    def run_cell(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> Running:
        """See `Engine`. A cell has effects and prints, so it is run again only where its line says so."""
        api = self._api()
        self._share(request)
        if self._run_cell is None:
            from atoll.kernel_ext.cell_runner import run_cell

            self._run_cell = api.remote(run_cell)
        given = {"name": label, "max_retries": 0, "_code": code_of(request.body, label), **options}

        def start(on_output: OnOutput) -> _Task:
            return _Task(api, self._run_cell.options(_on_output=on_output, **given).remote(request))

        if not request.timeout_s:
            return start(on_output)
        from atoll.kernel_ext.time_limit import Limited

        return Limited(start, on_output, request.timeout_s)

    def begin_cell(self, request: CellRequest, options: Options, label: str, waits: tuple[str, ...]) -> None:
        """See `Engine`. A cell has effects, so it is not begun again when its process dies."""
        api = self._api()
        self._share(request)
        from atoll.kernel_ext.background.host import host_class
        from atoll.kernel_ext.background.story import NAMESPACE, WAITS
        from atoll.options import ActorOptions

        known = ActorOptions.__struct_fields__
        wanted = {name: value for name, value in options.items() if name in known}
        held = (
            {"num_cpus": 1, **wanted, "max_restarts": options.get("max_retries", 0)} if not waits else {"num_cpus": 0}
        )
        name = request.record + (WAITS if waits else "")
        host = api.remote(host_class(label)).options(**held, name=name, namespace=NAMESPACE, lifetime="detached")
        host.remote(request, label, waits, dict(options))

    def end_cell(self, record: str) -> None:
        """See `Engine`."""
        api = self._api()
        from atoll.kernel_ext.background.story import NAMESPACE, WAITS

        for name in (record + WAITS, record):
            with contextlib.suppress(ValueError):  # there is no such actor
                api.kill(api.get_actor(name, namespace=NAMESPACE))

    def kept(self, record: str) -> tuple[CellResult, Any]:
        """See `Engine`."""
        self._api()
        from atoll.kernel_ext.background.kept import kept, name_of

        result, ref = kept(record)
        came_by_name(name_of(record), ref)
        return result, ref

    def forget(self, record: str) -> None:
        """See `Engine`."""
        self._api()
        from atoll.kernel_ext.background.kept import forget, name_of

        forget(record)
        name_is_gone(name_of(record))

    def sweep(self) -> None:
        """See `Engine`."""
        directory = Path(self.directory()) / "cells"
        from atoll.kernel_ext.background.kept import sweep

        sweep(lambda record: (directory / record).exists())

    def run_cached(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> _Task:
        """See `Engine`."""
        from atoll.kernel_ext.cached.runner import run_cached_cell

        api = self._api()
        self._share(request)
        if self._run_cached is None:
            self._run_cached = api.remote(run_cached_cell)
        given = {"name": label, "max_retries": 0, **options}
        return _Task(api, self._run_cached.options(_on_output=on_output, **given).remote(request))

    def claim(self, name: str) -> _NameClaim:
        """See `Engine`."""
        return _NameClaim(self._session(), name)

    def publish(self, name: str, ref: Any) -> None:
        """See `Engine`."""
        from atoll.client import names

        names.publish(self._session(), name, ref)
        came_by_name(name, ref)

    def drop(self, name: str) -> bool:
        """See `Engine`."""
        from atoll.client import names

        name_is_gone(name)
        return names.drop(self._session(), name)

    def value(self, ref: Any) -> Any:
        """See `Engine`."""
        return self._api().get(ref)

    def object_of(self, name: str) -> str:
        """See `Engine`."""
        from atoll.client import names

        location = names.claim(self._session(), name, compute=False).location
        return location.object_id.hex() if location is not None else ""

    def names(self) -> list[NameInfo]:
        """See `Engine`."""
        from atoll.client import names

        return names.names_of(self._session())

    def _session(self) -> Any:
        self._api()
        from atoll.client.current import current_session

        return current_session()

    def find_actor(self, name: str) -> _Handle | None:
        """See `Engine`."""
        api = self._api()
        try:
            handle = api.get_actor(name)
        except ValueError:
            return None
        alive = [actor for actor in self.state().actors if actor.name == name and actor.state != "dead"]
        return _Handle(api, handle, alive[0].class_name if alive else "", self._share)

    def make_actor(self, kind: type, name: str, options: Options, *arguments: Any) -> _Handle:
        """See `Engine`."""
        api = self._api()
        made = api.remote(kind).options(name=name, lifetime="detached", **options)
        return _Handle(api, made.remote(*arguments), kind.__name__, self._share)

    def wait(self, running: Running) -> Any:
        """See `Engine`."""
        return self._api().get(running.ref)

    def state(self) -> ClusterState:
        """See `Engine`."""
        self._api()
        from atoll.client.current import current_session

        state: ClusterState = current_session().state()
        return state

    def usage(self) -> UsageReport:
        """See `Engine`."""
        self._api()
        from atoll.accounting import fetch_report

        return fetch_report()

    def release_gpu(self, gpu: str) -> None:
        """See `Engine`."""
        self._api()
        from atoll.client.connection import failure
        from atoll.client.current import current_session
        from atoll.protocol.messages import ReleaseDevice

        session = current_session()
        problem = failure(session.ask_scheduler(ReleaseDevice(session.next_request(), gpu)))
        if problem is not None:
            raise problem

    def glance(self) -> Glance:
        """See `Engine`."""
        from atoll.client.connection import failure
        from atoll.client.current import existing_session
        from atoll.exceptions import ClusterLostError
        from atoll.protocol.messages import GetState, State

        session = existing_session()
        if session is None:
            raise ClusterLostError("this process has no session with a cluster any more")
        answer = session.ask_scheduler(GetState(session.next_request()))
        error = failure(answer)
        if error is not None:
            raise error
        assert isinstance(answer, State)
        return read_glance(answer.state)

    def why(self, of: Any) -> Explanation:
        """See `Engine`."""
        explanation: Explanation = self._reasons().why(of)
        return explanation

    def why_all(self) -> list[Explanation]:
        """See `Engine`."""
        explanations: list[Explanation] = self._reasons().why_all()
        return explanations

    def simulate(self, options: Options) -> Explanation:
        """See `Engine`."""
        explanation: Explanation = self._reasons().simulate(**options)
        return explanation

    def _reasons(self) -> Any:
        self._api()
        return importlib.import_module("atoll.reasons")

    def job(self) -> str:
        """See `Engine`."""
        self._api()
        from atoll.client.current import current_session

        return bytes(current_session().job).hex()

    def cluster_id(self) -> str:
        """See `Engine`."""
        cluster_id: str = self._session().cluster.cluster_id
        return cluster_id

    def directory(self) -> str:
        """See `Engine`."""
        self._api()
        from atoll.client.current import current_session

        return current_session().cluster.directory


_engine: Engine | None = None


def current_engine() -> Engine:
    """Return the engine of this process: the same in a kernel and in a worker that asks an actor something."""
    global _engine
    if _engine is None:
        _engine = AtollEngine()
    return _engine


def use_engine(engine: Engine | None) -> None:
    """Set the engine of this process; None for the usual one."""
    global _engine
    _engine = engine

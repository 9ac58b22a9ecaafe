"""The cluster behind `import atoll`, as this room uses it."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.environment import filter_variables
from atoll.exceptions import ClusterError, ClusterLostError
from atoll.kernel_ext.buffers import DEFAULT_KEPT_BYTES, SharedMemory, came_by_name, name_is_gone
from atoll.kernel_ext.cell_code import code_of
from atoll.kernel_ext.cell_messages import CellRequest, CellResult
from atoll.kernel_ext.engine.calls import Handle, NameClaim, Task
from atoll.kernel_ext.engine.contract import Glance, OnOutput, Options, Running, read_glance
from atoll.protocol.explanation import Explanation
from atoll.protocol.state import ClusterState
from atoll.protocol.usage import UsageReport
from atoll.protocol.values import Environment, NameInfo


def changed_variables(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that are others now; None for those that are gone."""
    changed: dict[str, str | None] = {name: value for name, value in now.items() if before.get(name) != value}
    return changed | {name: None for name in before if name not in now}


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

        def start(on_output: OnOutput) -> Task:
            return Task(api, self._run_cell.options(_on_output=on_output, **given).remote(request))

        if not request.timeout_s:
            return start(on_output)
        from atoll.kernel_ext.time_limit import Limited

        return Limited(start, on_output, request.timeout_s)

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

    def run_cached(self, request: CellRequest, options: Options, label: str, on_output: OnOutput) -> Task:
        """See `Engine`."""
        from atoll.kernel_ext.cached.runner import run_cached_cell

        api = self._api()
        self._share(request)
        if self._run_cached is None:
            self._run_cached = api.remote(run_cached_cell)
        given = {"name": label, "max_retries": 0, **options}
        return Task(api, self._run_cached.options(_on_output=on_output, **given).remote(request))

    def claim(self, name: str) -> NameClaim:
        """See `Engine`."""
        return NameClaim(self._session(), name)

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

    def find_actor(self, name: str) -> Handle | None:
        """See `Engine`."""
        api = self._api()
        try:
            handle = api.get_actor(name)
        except ValueError:
            return None
        alive = [actor for actor in self.state().actors if actor.name == name and actor.state != "dead"]
        return Handle(api, handle, alive[0].class_name if alive else "", self._share)

    def make_actor(self, kind: type, name: str, options: Options, *arguments: Any) -> Handle:
        """See `Engine`."""
        api = self._api()
        made = api.remote(kind).options(name=name, lifetime="detached", **options)
        for argument in arguments:
            if isinstance(argument, CellRequest):
                self._share(argument)
        return Handle(api, made.remote(*arguments), kind.__name__, self._share)

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

        directory = current_session().cluster.directory
        if not Path(directory).is_dir():  # the cluster was stopped, which this session has not noticed yet
            with contextlib.suppress(ClusterLostError):
                current_session().state()
            self._api()
            directory = current_session().cluster.directory
        return directory

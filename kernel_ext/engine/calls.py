"""What runs on the cluster, or was asked of it: a task, a claim of a name, an actor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from atoll.kernel_ext.buffers import came_by_name
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine.contract import OnOutput


class Task:
    """A task or an actor's method that was called."""

    def __init__(self, api: Any, ref: Any) -> None:
        self._api = api
        self.ref = ref
        self.future: Future[Any] = ref.future()

    def cancel(self, *, force: bool = False) -> None:
        """See `Running`."""
        self._api.cancel(self.ref, force=force)


class NameClaim:
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


class Handle:
    """An actor behind the API's handle."""

    def __init__(self, api: Any, handle: Any, class_name: str, share: Callable[[CellRequest], None]) -> None:
        self._api = api
        self._share = share
        self._handle = handle
        self.class_name = class_name

    def call(self, method: str, *arguments: Any, on_output: OnOutput | None = None, label: str = "") -> Task:
        """See `Actor`."""
        function = getattr(self._handle, method)
        for argument in arguments:
            if isinstance(argument, CellRequest):
                self._share(argument)
        options: dict[str, Any] = {"name": label or _LABELS.get(method)}
        if on_output is not None:
            options["_on_output"] = on_output
        return Task(self._api, function.options(**options).remote(*arguments))

    def kill(self, cause: str = "") -> None:
        """See `Actor`."""
        from atoll.actor import end_actor

        end_actor(self._handle, cause=cause)

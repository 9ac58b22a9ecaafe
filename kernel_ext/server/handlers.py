"""The routes under `/atoll/api`. Each verb is authenticated and authorised here, whatever the server's defaults.

    GET     state               the cluster's state (`atoll.protocol.state.ClusterState`)
    GET     health              how the cluster is (`Health`), also when there is none
    GET     metrics             the cluster for Prometheus (text exposition format 0.0.4)
    GET     state/watch         WebSocket: states as they change, at most five a second
    GET     cells/watch         WebSocket: the background cells that a page asks for (`cells.py`)
    POST    actors/<id>/kill    end an actor, for good
    DELETE  names/<name>        take a name out of the cluster's cache
    POST    cluster/restart     stop the cluster and start a fresh one

Jupyter's base classes bring the checks of the Host header (claim S14), of XSRF for what changes something (S15) and
of the origin. What does not look like an id never reaches a handler (S16): the router answers 404. Nothing of a request
becomes a path, a command or an address.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.websocket import WebSocketClosedError

from atoll.exceptions import AtollError, ClusterError
from atoll.kernel_ext.server.cells import CellPages, CellsHandler
from atoll.kernel_ext.server.cluster import WATCH_INTERVAL_S, ServerCluster
from atoll.kernel_ext.server.metrics import CONTENT_TYPE, Notebooks, exposition
from atoll.kernel_ext.server.page_socket import RESOURCE, PageSocket
from atoll.protocol.messages import DropName, GetState, GetUsage, KillActor, Message, State, Usage
from atoll.protocol.state import decode_state
from atoll.protocol.usage import decode_usage
from atoll.widgets.changes import ChangeFilter

API = "atoll/api"
MAXIMUM_WATCHERS = 64
_MAXIMUM_NAME = 1024


class AtollHandler(APIHandler):  # type: ignore[misc] # jupyter_server comes without types for mypy
    """What all of our routes share."""

    auth_resource = RESOURCE
    # A dashboard that is open must not keep an idle server from being culled.
    _track_activity = False

    def initialize(self, cluster: ServerCluster) -> None:
        """Take what the route table gives."""
        self.cluster = cluster

    @web.authenticated
    @authorized
    async def options(self, *_path: str) -> None:
        """Tell nothing to strangers: no other origin is to read anything here."""
        self.set_status(204)
        await self.finish()

    async def ask(self, make: Callable[[int], Message]) -> Message:
        """Ask the scheduler; errors become HTTP's."""
        try:
            return await self.cluster.ask(make)
        except (ClusterError, TimeoutError) as error:
            raise web.HTTPError(503, "%s", error) from None
        except AtollError as error:
            raise web.HTTPError(404, "%s", error) from None

    def write_error(self, status_code: int, **details: Any) -> None:
        """Answer with JSON that says what is wrong, and never a traceback."""
        error = details.get("exc_info", (None, None))[1]
        said = error.get_message() if isinstance(error, web.HTTPError) else None
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"message": said or self._reason}))


class StateHandler(AtollHandler):
    """The cluster's state, once."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the state."""
        answer = await self.ask(GetState)
        if not isinstance(answer, State):
            raise web.HTTPError(502, "the scheduler gave no state")
        await self.finish(answer.state)


class HealthHandler(AtollHandler):
    """How the cluster is; answers also when there is none."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the health."""
        await self.finish(msgspec.json.encode(self.cluster.health()))


class MetricsHandler(AtollHandler):
    """The cluster for Prometheus, whose scraper brings a token: `authorization: {credentials: ...}`."""

    def initialize(self, cluster: ServerCluster, notebooks: Notebooks) -> None:  # type: ignore[override]
        """Take what the route table gives."""
        super().initialize(cluster)
        self.notebooks = notebooks

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the metrics."""
        state, usage = await self.ask(GetState), await self.ask(GetUsage)
        if not isinstance(state, State) or not isinstance(usage, Usage):
            raise web.HTTPError(502, "the scheduler gave no state")
        text = exposition(decode_state(state.state), decode_usage(usage.usage), self.notebooks)
        # `finish` of an API handler says JSON, unless it is told otherwise at the last moment.
        await self.finish(text, set_content_type=CONTENT_TYPE)


class KillActorHandler(AtollHandler):
    """The end of an actor."""

    @web.authenticated
    @authorized
    async def post(self, actor_id: str) -> None:
        """End the actor; it is not started again."""
        await self.ask(lambda request: KillActor(request, bytes.fromhex(actor_id), no_restart=True))
        self.set_status(204)
        await self.finish()


class NameHandler(AtollHandler):
    """A name of the cluster's cache."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Take the name away."""
        if len(name) > _MAXIMUM_NAME or not name.isprintable():
            raise web.HTTPError(404, "there is no such name")
        await self.ask(lambda request: DropName(request, name))
        self.set_status(204)
        await self.finish()


class RestartHandler(AtollHandler):
    """A fresh cluster."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Stop the cluster and start another; answer with its health."""
        try:
            await self.cluster.restart()
        except (AtollError, OSError, ValueError) as error:
            raise web.HTTPError(503, "%s", error) from None
        await self.finish(msgspec.json.encode(self.cluster.health()))


class WatchHandler(PageSocket):
    """States as they change."""

    def initialize(self, cluster: ServerCluster) -> None:
        """Take what the route table gives."""
        self.cluster = cluster
        self._filter = ChangeFilter(WATCH_INTERVAL_S)
        self._sending: asyncio.Task[None] | None = None

    def has_room(self) -> bool:
        """See `PageSocket`."""
        return self.cluster.health().watchers < MAXIMUM_WATCHERS

    def open(self, *path: str, **more: str) -> None:
        """Begin to watch."""
        super().open(*path, **more)
        self.cluster.watch(self)

    def on_close(self) -> None:
        """Stop watching."""
        self.cluster.unwatch(self)
        super().on_close()

    def take_state(self, state: bytes) -> None:
        """Send a state that differs. A page that is slow misses states; it never delays or fills anything."""
        if self._sending is not None:
            return
        update = self._filter.take(state, time.monotonic())
        if update is not None:
            self._push(update)

    def take_trouble(self, text: str) -> None:
        """Say what is wrong."""
        self._filter.forget()
        self._push(json.dumps({"kind": "trouble", "text": text}))

    def _push(self, content: str | bytes) -> None:
        async def push() -> None:
            try:
                await self.write_message(content)
            except WebSocketClosedError:
                self.cluster.unwatch(self)
            finally:
                self._sending = None

        self._sending = asyncio.get_running_loop().create_task(push())


def routes(cluster: ServerCluster, cells: CellPages) -> list[tuple[str, type[JupyterHandler], dict[str, Any]]]:
    """Return the route table."""
    given = {"cluster": cluster}
    return [
        (rf"/{API}/state", StateHandler, given),
        (rf"/{API}/state/watch", WatchHandler, given),
        (rf"/{API}/cells/watch", CellsHandler, {"cells": cells}),
        (rf"/{API}/metrics", MetricsHandler, {**given, "notebooks": Notebooks()}),
        (rf"/{API}/health", HealthHandler, given),
        (rf"/{API}/actors/([0-9a-f]{{32}})/kill", KillActorHandler, given),
        (rf"/{API}/names/([^/]+)", NameHandler, given),
        (rf"/{API}/cluster/restart", RestartHandler, given),
    ]

"""The cluster's life as the Jupyter server sees it: started, watched, spoken with, stopped.

                 ┌────────── restart() ◀──────────┐
    off ──▶ starting ──▶ running ──▶ failed ──────┤      failed, stopped: a cluster that somebody else
                 ▲          │                     │      starts is found and attached to
                 └── found ─┴──────▶ stopped ─────┘

Starting, looking and stopping block, so they run one after another in an executor of one thread. Speaking with the
scheduler happens on the server's own loop. A scheduler that was restarted is dialled again; who watched goes on
watching.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import msgspec

from atoll.client.connection import failure
from atoll.client.launch import find_cluster, stop_cluster
from atoll.exceptions import AtollError, ClusterLostError
from atoll.ids import new_process_id
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.endpoint import Endpoint
from atoll.protocol.handshake import Identity
from atoll.protocol.machine import Event, Peer, PeerLost, Received
from atoll.protocol.messages import Message, RegisterJob, State, WatchState

WATCH_INTERVAL_S = 0.2
CHECK_INTERVAL_S = 1.0
_REQUEST_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 15.0

Result = TypeVar("Result")


class ClusterKeeper(Protocol):
    """What starts, checks and stops a cluster: `atoll.client.supervisor.Supervisor`."""

    cluster: ClusterFile | None
    started_here: bool

    def start(self) -> ClusterFile:
        """Start the cluster or attach to the one that runs."""
        ...

    def check(self) -> list[str]:
        """Restart daemons that died; return which."""
        ...

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the cluster if it was started here."""
        ...


class Health(msgspec.Struct, frozen=True):
    """How the cluster is, for people and the REST route. Holds no key and no path.

    Attributes:
        phase: `off`, `starting`, `running`, `failed` or `stopped`.
        text: One line about it: why it failed, and what to do.
        cluster_id: Of the cluster, or empty.
        started_here: Whether this server started it, and will stop it.
        connected: Whether the scheduler answers on our connection.
        scheduler_pid: 0 without a cluster.
        agent_pid: 0 without a cluster.
        watchers: How many pages watch.
    """

    phase: str
    text: str
    cluster_id: str
    started_here: bool
    connected: bool
    scheduler_pid: int
    agent_pid: int
    watchers: int


class Watcher(Protocol):
    """Somebody who wants every state."""

    def take_state(self, state: bytes) -> None:
        """Take a state as JSON. Must not block."""
        ...

    def take_trouble(self, text: str) -> None:
        """Take what is wrong with the cluster."""
        ...


class ServerCluster:
    """Keeps the cluster for as long as the server lives. Everything here runs on the server's loop.

    Args:
        make_keeper: Makes what starts, checks and stops; called in the executor, for it may fail.
        starts: Whether to start a cluster where none runs; else one that appears is attached to.
        log: Of the server.
        find: Looks for a running cluster; tests give their own.
    """

    def __init__(
        self,
        make_keeper: Callable[[], ClusterKeeper],
        *,
        starts: bool,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        find: Callable[[], ClusterFile | None] = find_cluster,
    ) -> None:
        self._make_keeper = make_keeper
        self._keeper: ClusterKeeper | None = None
        self._starts = starts
        self._log = log
        self._find = find
        self._phase = "off"
        self._text = "not started yet"
        self._cluster: ClusterFile | None = None
        self._endpoint: Endpoint | None = None
        self._peer: Peer | None = None
        self._process_id = new_process_id()
        self._requests = 0
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._watchers: dict[Watcher, None] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._changing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------------- life

    def begin(self) -> None:
        """Start in the background; returns at once and raises nothing."""
        if self._task is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="atoll-cluster")
            self._task = asyncio.get_running_loop().create_task(self._run(), name="atoll-cluster")

    async def end(self) -> None:
        """Stop what was started here, close the connection. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._hang_up("the Jupyter server stops")
        executor, self._executor = self._executor, None
        if executor is None:
            return
        stopping = asyncio.get_running_loop().run_in_executor(executor, self._stop_keeper)
        executor.shutdown(wait=False)
        try:
            # Behind a start that is still under way, if there is one: what it starts is stopped.
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await stopping
        except (AtollError, OSError, TimeoutError) as error:
            self._log.warning("Atoll: the cluster was not stopped cleanly: %s; `atoll doctor` looks after it", error)
        self._set_phase("off", "the Jupyter server stops")

    async def restart(self) -> None:
        """Stop the cluster, whoever started it, and start a fresh one. What was in it is lost.

        Raises:
            AtollError: It could not be stopped or started.
        """
        async with self._changing:
            cluster = self._cluster
            self._hang_up("the cluster is being restarted")
            self._set_phase("starting", "the cluster is being restarted")
            try:
                if cluster is not None:
                    await self._blocking(lambda: stop_cluster(cluster))
                await self._blocking(self._stop_keeper)
                await self._start()
            except (AtollError, OSError, ValueError) as error:
                self._fail(error)
                raise

    async def _run(self) -> None:
        if self._starts:
            async with self._changing:
                try:
                    self._set_phase("starting", "the cluster is being started")
                    await self._start()
                except Exception as error:
                    # Whatever it is, Jupyter goes on without a cluster.
                    self._fail(error)
        while self._task is not None:
            async with self._changing:
                try:
                    await self._look()
                except Exception as error:
                    self._fail(error)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _start(self) -> None:
        self._cluster = await self._blocking(self._start_keeper)
        await self._connect(self._cluster)
        whose = "started" if self._started_here else "attached to"
        self._log.info("Atoll: %s cluster %s", whose, self._cluster.cluster_id)

    def _start_keeper(self) -> ClusterFile:
        if self._keeper is None:
            self._keeper = self._make_keeper()
        return self._keeper.start()

    def _stop_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    @property
    def _started_here(self) -> bool:
        return self._keeper is not None and self._keeper.started_here

    async def _look(self) -> None:
        """See that the cluster lives and that we are connected; attach to one that has appeared."""
        if self._cluster is None:
            found = await self._blocking(self._find)
            if found is not None:
                self._cluster = found
                await self._connect(found)
                self._log.info("Atoll: attached to cluster %s", found.cluster_id)
            return
        restarted = await self._blocking(self._keeper.check) if self._keeper is not None else []
        if restarted and self._keeper is not None:
            self._log.warning("Atoll: restarted the %s, which had died", " and the ".join(restarted))
            self._cluster = self._keeper.cluster
        if self._peer is None or "scheduler" in restarted:
            if not self._started_here and await self._blocking(self._find) is None:
                raise ClusterLostError("the cluster has ended")
            assert self._cluster is not None, "a keeper that restarted a daemon has a cluster"
            try:
                await self._connect(self._cluster)
            except (ClusterLostError, TimeoutError) as error:
                if not self._started_here:
                    raise
                # Whether it is dead, and what then, the keeper finds out at one of its next checks.
                self._hang_up(str(error))
                self._set_phase("starting", "the scheduler does not answer; it is started again if it has died")

    def _fail(self, error: BaseException) -> None:
        """Give the cluster up, say so once, and look for another from now on."""
        self._hang_up(str(error))
        self._cluster = None
        text = (
            str(error) if isinstance(error, AtollError | OSError | ValueError) else f"{type(error).__name__}: {error}"
        )
        news = text != self._text
        if isinstance(error, ClusterLostError):
            self._set_phase("stopped", text)
            if news:
                self._log.info("Atoll: %s; `atoll up` starts a cluster", text)
        else:
            self._set_phase("failed", text)
            if news:
                self._log.error(
                    "Atoll: no cluster: %s", text, exc_info=None if isinstance(error, AtollError) else error
                )

    async def _blocking(self, call: Callable[[], Result]) -> Result:
        if self._executor is None:
            raise ClusterLostError("the Jupyter server stops")
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _set_phase(self, phase: str, text: str) -> None:
        self._phase, self._text = phase, text
        if phase != "running":
            for watcher in list(self._watchers):
                watcher.take_trouble(text)

    # ------------------------------------------------------------------------------------------- connection

    async def _connect(self, cluster: ClusterFile) -> None:
        self._hang_up("connecting again")
        self._endpoint = Endpoint(cluster.key_bytes(), Identity("client", self._process_id), self._deliver)
        self._peer = await self._endpoint.dial(cluster.scheduler_socket)
        await self.ask(
            lambda request: RegisterJob(
                request=request,
                job=self._process_id,
                kind="server",
                name="Jupyter server",
                pid=os.getpid(),
                namespace="",
                environment=None,
            )
        )
        self._set_phase("running", "")
        if self._watchers:
            self._send(WatchState(WATCH_INTERVAL_S))

    def _hang_up(self, why: str) -> None:
        endpoint, self._endpoint, self._peer = self._endpoint, None, None
        if endpoint is not None:
            endpoint.close()
        self._fail_answers(why)

    def _fail_answers(self, why: str) -> None:
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(ClusterLostError(why))

    def _deliver(self, event: Event) -> None:
        if isinstance(event, PeerLost):
            self._peer = None
            self._fail_answers(event.cause or "the scheduler closed the connection")
            for watcher in list(self._watchers):
                watcher.take_trouble("the scheduler does not answer")
        elif isinstance(event, Received):
            message = event.message
            request = getattr(message, "request", 0)
            if request == 0 and isinstance(message, State):
                for watcher in list(self._watchers):
                    watcher.take_state(message.state)
            answer = self._answers.pop(request, None)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def _send(self, message: Message) -> None:
        if self._endpoint is not None and self._peer is not None:
            self._endpoint.send(self._peer, message)

    async def ask(self, make: Callable[[int], Message]) -> Message:
        """Send a request to the scheduler and return its answer.

        Args:
            make: Makes the message for a request number.

        Raises:
            ClusterLostError: There is no connection, or it went away.
            TimeoutError: No answer in time.
            AtollError: The scheduler refused.
        """
        if self._endpoint is None or self._peer is None:
            raise ClusterLostError(self._text or "the scheduler does not answer")
        self._requests += 1
        request = self._requests
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        self._send(make(request))
        try:
            # Not `wait_for`: in Python 3.11 it can swallow a cancellation, and then `end` would wait for ever.
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                message = await answer
        finally:
            self._answers.pop(request, None)
        error = failure(message)
        if error is not None:
            raise error
        return message

    # --------------------------------------------------------------------------------------------- watching

    def watch(self, watcher: Watcher) -> None:
        """Send a watcher every state from now on; the scheduler is asked for them while there is one."""
        self._watchers[watcher] = None
        if self._peer is None:
            watcher.take_trouble(self._text or "the scheduler does not answer")
        elif len(self._watchers) == 1:
            self._send(WatchState(WATCH_INTERVAL_S))

    def unwatch(self, watcher: Watcher) -> None:
        """Send it no more. May be called twice."""
        if watcher in self._watchers:
            del self._watchers[watcher]
            if not self._watchers:
                self._send(WatchState(0.0))

    @property
    def file(self) -> ClusterFile | None:
        """What is known of the cluster; None without one."""
        return self._cluster

    def health(self) -> Health:
        """Return how the cluster is."""
        cluster = self._cluster
        return Health(
            phase=self._phase,
            text=self._text,
            cluster_id=cluster.cluster_id if cluster else "",
            started_here=self._started_here,
            connected=self._phase == "running" and self._peer is not None,
            scheduler_pid=cluster.scheduler_pid if cluster else 0,
            agent_pid=cluster.agent_pid if cluster else 0,
            watchers=len(self._watchers),
        )

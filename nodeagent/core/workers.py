"""The pool of workers: processes that wait, forked beforehand, so that a lease starts within milliseconds.

    starting ──WorkerStarted──▶ idle ◀──────────▶ leased
        │                        │ trim, job over    │ EndLease(kill), crash
        └──────────▶ stopping ◀──┴───────────────────┘ ──ProcessExited──▶ gone

A worker fits a lease if it has the lease's environment, its devices and its number of threads. One that has run
something for a job serves only that job afterwards, so that what one notebook patched or imported is not another's.
A worker with devices is bound to them for life. It is idle only after a lease that has left it little memory of them.

Each environment has a zygote, started when the environment is defined with `prepare` or first asked for. A few fresh
workers are kept idle beside it. An environment that nobody has used for a while loses both and is started again when
it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from atoll.exceptions import RuntimeEnvSetupError
from atoll.nodeagent.core.events import (
    ForkWorker,
    KillWorker,
    StartZygote,
    StopZygote,
    WorkerForked,
    ZygoteDied,
)
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import StopWorker
from atoll.protocol.values import Environment

FRESH_WORKERS = 4
"""At most so many workers wait in an environment without ever having run anything."""

REFILL_AFTER_S = 0.15
"""New idle workers are forked only then, so that they do not compete with the task that took the last one."""

TRIM_AFTER_S = 30.0
"""A worker that has run something and then nothing for so long is ended."""

TRIM_WITH_DEVICES_S = 10.0
"""... or for so long if it keeps devices from other clusters, and some of their memory from everybody."""

ENVIRONMENT_IDLE_S = 600.0
"""An environment without any lease for so long gives up its workers and its zygote."""

STOP_WITHIN_S = 2.0
"""A worker that was asked to stop is killed when it is still there after this."""

EXIT_WITHIN_S = 0.5
"""A worker that has closed its connection is in the midst of its exit, and its exit code is wanted."""

NEVER = float("inf")

FAILURES_BEFORE_REST = 3
"""After so many workers in a row that died while starting, none is forked beforehand until one is asked for."""


class WorkerKey(msgspec.Struct, frozen=True):
    """What a worker is bound to for life."""

    environment: str
    devices: tuple[str, ...] = ()
    threads: int = 1


@dataclass(slots=True)
class Worker:
    """A worker process.

    Attributes:
        worker_id: Its process id in the cluster.
        key: What it is bound to.
        state: `starting`, `idle`, `leased` or `stopping`.
        pid: 0 until it is forked.
        peer: Its connection, once it has started.
        address: Where it listens, likewise.
        lease_id: The lease that it serves or, while starting, that waits for it.
        job: The only job that it may serve; empty while it is fresh.
        since: When it became idle.
        kill_at: When it is killed if it is still there; never once that is done.
        started: Whether it ever said `WorkerStarted`.
    """

    worker_id: bytes
    key: WorkerKey
    state: str = "starting"
    pid: int = 0
    peer: Peer | None = None
    address: str = ""
    lease_id: int | None = None
    job: bytes = b""
    since: float = 0.0
    kill_at: float = NEVER
    started: bool = False

    @property
    def trim_at(self) -> float:
        """When it is ended if it is idle until then."""
        return self.since + (TRIM_WITH_DEVICES_S if self.key.devices else TRIM_AFTER_S)


@dataclass(slots=True)
class EnvironmentState:
    """An environment and its zygote.

    Attributes:
        environment: What a zygote of it is made from.
        zygote: Whether its zygote runs, or is being started.
        prepare: Whether idle workers are kept beside it.
        last_used: When a lease of it was last started or ended, or it was defined.
        refill_at: When idle workers are to be forked.
        failures: Workers in a row that died while starting.
    """

    environment: Environment
    last_used: Instant
    zygote: bool = False
    prepare: bool = False
    refill_at: Instant | None = None
    failures: int = 0
    idle: dict[bytes, Worker] = field(default_factory=dict)


class WorkerPool:
    """All workers of the node.

    Args:
        cpus: How many processors there are: at most as many workers that have run something are kept idle in an
            environment, beside the fresh ones.
        outbox: Where forks and kills go.
        new_worker_id: Makes ids.
    """

    def __init__(self, cpus: int, outbox: Outbox, new_worker_id: Callable[[], bytes]) -> None:
        self._cpus = max(1, cpus)
        self._fresh = min(self._cpus, FRESH_WORKERS)
        self._idle_limit = self._cpus + self._fresh
        self._outbox = outbox
        self._new_worker_id = new_worker_id
        self._environments: dict[str, EnvironmentState] = {}
        self._workers: dict[bytes, Worker] = {}
        self._by_peer: dict[Peer, Worker] = {}

    # ----------------------------------------------------------------------------------------------- asking

    def worker(self, worker_id: bytes) -> Worker | None:
        """Return a worker by its id."""
        return self._workers.get(worker_id)

    def by_peer(self, peer: Peer) -> Worker | None:
        """Return the worker that a connection belongs to."""
        return self._by_peer.get(peer)

    def workers(self) -> list[Worker]:
        """Return all workers, oldest first."""
        return list(self._workers.values())

    def knows(self, digest: str) -> bool:
        """Whether the environment has been defined."""
        return digest in self._environments

    # ----------------------------------------------------------------------------------------- environments

    def define(self, digest: str, environment: Environment, prepare: bool, now: Instant) -> None:
        """Remember an environment and, with `prepare`, start its zygote and the first workers."""
        state = self._environments.get(digest)
        if state is None:
            state = self._environments[digest] = EnvironmentState(environment, last_used=now)
        state.last_used = now
        if prepare:
            state.prepare = True
            state.failures = 0
            self._ensure_zygote(digest, state)
            self._refill(digest, state, now)

    def _ensure_zygote(self, digest: str, state: EnvironmentState) -> None:
        if not state.zygote:
            state.zygote = True
            self._outbox.do(StartZygote(digest, state.environment))

    def zygote_died(self, event: ZygoteDied, now: Instant) -> list[Worker]:
        """Forget a zygote and return its workers, all of them dead, removed from the pool."""
        state = self._environments.get(event.environment)
        if state is None:
            return []
        state.zygote = False
        state.refill_at = None
        state.failures = FAILURES_BEFORE_REST
        lost = [worker for worker in self._workers.values() if worker.key.environment == event.environment]
        for worker in lost:
            self._forget(worker)
        return lost

    def _refill(self, digest: str, state: EnvironmentState, now: Instant) -> None:
        """Fork fresh workers until enough wait. The first is wanted soon; the others can wait for the zygote."""
        state.refill_at = None
        if not state.prepare or not state.zygote or state.failures >= FAILURES_BEFORE_REST:
            return
        key = WorkerKey(digest)
        waiting = sum(1 for w in self._workers.values() if w.key == key and not w.job and w.state != "stopping")
        for number in range(waiting, self._fresh):
            self._fork(key, None, urgent=number == 0)

    # --------------------------------------------------------------------------------------------- leasing

    def obtain(self, key: WorkerKey, lease_id: int, job: bytes, now: Instant) -> Worker:
        """Give a worker to a lease: one that is idle, one that is just starting, or a new one.

        The caller has asked `knows`.

        Returns:
            The worker, `leased` if it can begin at once, `starting` otherwise.
        """
        state = self._environments[key.environment]
        state.last_used = now
        state.prepare = True
        self._ensure_zygote(key.environment, state)
        worker = self._choose_idle(key, state, job) or self._choose_starting(key)
        if worker is None:
            worker = self._fork(key, lease_id, urgent=True)
        elif worker.state == "idle":
            worker.state = "leased"
            del state.idle[worker.worker_id]
        worker.lease_id = lease_id
        worker.job = job
        if state.refill_at is None:
            state.refill_at = Instant(now + REFILL_AFTER_S)
        return worker

    def _choose_idle(self, key: WorkerKey, state: EnvironmentState, job: bytes) -> Worker | None:
        """Return the worker of this job that was used last, else a fresh one."""
        fresh = None
        for worker in reversed(state.idle.values()):
            if worker.key == key:
                if worker.job == job:
                    return worker
                if not worker.job:
                    fresh = worker
        return fresh

    def warm(self, key: WorkerKey, job: bytes) -> Worker | None:
        """Return the idle worker with devices that `obtain` would give, if there is one."""
        worker = self._choose_idle(key, self._environments[key.environment], job)
        return worker if worker is not None and key.devices else None

    def _choose_starting(self, key: WorkerKey) -> Worker | None:
        for worker in self._workers.values():
            if worker.state == "starting" and worker.lease_id is None and worker.key == key:
                return worker
        return None

    def _fork(self, key: WorkerKey, lease_id: int | None, *, urgent: bool) -> Worker:
        worker = Worker(self._new_worker_id(), key, lease_id=lease_id)
        self._workers[worker.worker_id] = worker
        fork = ForkWorker(worker.worker_id, key.environment, list(key.devices), key.threads, urgent)
        self._outbox.do(fork)
        return worker

    def release(self, worker: Worker, now: Instant) -> None:
        """The lease is over: the worker waits for another of its job, unless enough wait already."""
        state = self._environments[worker.key.environment]
        state.last_used = now
        worker.lease_id = None
        if worker.state == "starting":
            worker.job = b""
            return
        self._wait_for_lease(worker, state, now)

    def _wait_for_lease(self, worker: Worker, state: EnvironmentState, now: Instant) -> None:
        if (worker.key.devices and not worker.job) or len(state.idle) >= self._idle_limit:
            self.retire(worker, now)
            return
        worker.state = "idle"
        worker.since = now
        state.idle[worker.worker_id] = worker

    def retire(self, worker: Worker, now: Instant) -> None:
        """Ask a worker to exit; it is killed if it does not."""
        if worker.peer is None:
            self.kill(worker, now)
            return
        self._stop(worker, now + STOP_WITHIN_S)
        self._outbox.send(worker.peer, StopWorker())

    def kill(self, worker: Worker, now: Instant) -> None:
        """End a worker at once."""
        if worker.state == "stopping" and worker.kill_at == NEVER:
            return
        self._stop(worker, NEVER)
        self._outbox.do(KillWorker(worker.worker_id))

    def _stop(self, worker: Worker, kill_at: float) -> None:
        self._leave(worker)
        worker.state = "stopping"
        worker.kill_at = kill_at

    def _leave(self, worker: Worker) -> None:
        self._environments[worker.key.environment].idle.pop(worker.worker_id, None)

    def job_ended(self, job: bytes, now: Instant) -> None:
        """Nothing more will come from the job: its idle workers are of no use."""
        for worker in self.workers():
            if worker.job == job and worker.state == "idle":
                self.retire(worker, now)

    def retire_used(self, now: Instant) -> bool:
        """The host is nearly full: end the idle workers that have run something. Returns whether there were any."""
        used = [worker for worker in self.workers() if worker.job and worker.state == "idle"]
        for worker in used:
            self.retire(worker, now)
        return bool(used)

    # ------------------------------------------------------------------------------------------- processes

    def forked(self, event: WorkerForked) -> None:
        """The process exists."""
        worker = self._workers.get(event.worker_id)
        if worker is not None:
            worker.pid = event.pid

    def started(self, worker: Worker, peer: Peer, address: str, pid: int, now: Instant) -> None:
        """The worker listens. It is `leased` afterwards if a lease waits for it, else `idle`."""
        worker.peer = peer
        worker.address = address
        worker.pid = pid
        worker.started = True
        self._by_peer[peer] = worker
        state = self._environments[worker.key.environment]
        state.failures = 0
        if worker.state != "starting":
            return
        if worker.lease_id is not None:
            worker.state = "leased"
        else:
            self._wait_for_lease(worker, state, now)

    def exited(self, worker: Worker, now: Instant) -> None:
        """The process is gone; forget it."""
        self._forget(worker)
        state = self._environments[worker.key.environment]
        if not worker.started and worker.state == "starting":
            state.failures += 1
        if state.prepare and state.refill_at is None:
            state.refill_at = Instant(now + REFILL_AFTER_S)

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.worker_id, None)
        self._leave(worker)
        if worker.peer is not None:
            self._by_peer.pop(worker.peer, None)

    def disconnected(self, peer: Peer, now: Instant) -> Worker | None:
        """A connection is gone; return the worker that it was of, which ends now, one way or the other."""
        worker = self._by_peer.pop(peer, None)
        if worker is None:
            return None
        worker.peer = None
        if worker.state != "stopping":
            self._stop(worker, now + EXIT_WITHIN_S)
        return worker

    # ---------------------------------------------------------------------------------------------- timers

    def next_deadline(self) -> Instant | None:
        """Return when something is to be forked, trimmed or killed."""
        instants: list[float] = []
        for digest, state in self._environments.items():
            if state.refill_at is not None:
                instants.append(state.refill_at)
            instants.extend(worker.trim_at for worker in state.idle.values() if worker.job)
            if state.zygote and not self._in_use(digest):
                instants.append(state.last_used + ENVIRONMENT_IDLE_S)
        instants.extend(worker.kill_at for worker in self._workers.values())
        earliest = min(instants, default=NEVER)
        return Instant(earliest) if earliest != NEVER else None

    def _in_use(self, digest: str) -> bool:
        return any(w.key.environment == digest and w.state != "idle" for w in self._workers.values())

    def tick(self, now: Instant) -> None:
        """Do what is due."""
        for worker in self.workers():
            if worker.kill_at <= now:
                self.kill(worker, now)
            elif worker.state == "idle" and worker.job and worker.trim_at <= now:
                self.retire(worker, now)
        for digest, state in self._environments.items():
            if state.refill_at is not None and state.refill_at <= now:
                self._refill(digest, state, now)
            if state.zygote and not self._in_use(digest) and state.last_used + ENVIRONMENT_IDLE_S <= now:
                self._rest_environment(digest, state, now)

    def _rest_environment(self, digest: str, state: EnvironmentState, now: Instant) -> None:
        if state.idle:
            for worker in list(state.idle.values()):
                self.retire(worker, now)
            return
        state.zygote = False
        state.prepare = False
        state.refill_at = None
        self._outbox.do(StopZygote(digest))

    # ---------------------------------------------------------------------------------------------- checks

    def died_while_starting(self, worker: Worker, detail: str) -> tuple[str, str]:
        """Return kind and text for a lease whose worker never started."""
        executable = self._environments[worker.key.environment].environment.executable
        reason = f": {detail}" if detail else ""
        return RuntimeEnvSetupError.__name__, f"no worker could be started with {executable}{reason}"

    def broken_invariant(self) -> str | None:
        """Return what does not hold, or None."""
        for worker in self._workers.values():
            state = self._environments[worker.key.environment]
            if (worker.state == "idle") != (worker.worker_id in state.idle):
                return f"worker {worker.worker_id.hex()} is {worker.state}, the idle ones say otherwise"
            if worker.state == "idle" and (worker.lease_id is not None or worker.peer is None):
                return f"idle worker {worker.worker_id.hex()} has a lease or no connection"
            if worker.state == "leased" and worker.lease_id is None:
                return f"leased worker {worker.worker_id.hex()} has no lease"
            if worker.state != "stopping" and not state.zygote:
                return f"worker {worker.worker_id.hex()} lives without its zygote"
        for peer, worker in self._by_peer.items():
            if worker.peer != peer or self._workers.get(worker.worker_id) is not worker:
                return f"the connection {peer} is of a worker that is not there"
        for state in self._environments.values():
            if len(state.idle) > self._idle_limit:
                return f"{len(state.idle)} idle workers, more than the limit of {self._idle_limit}"
        return None

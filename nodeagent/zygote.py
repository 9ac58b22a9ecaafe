"""The zygote: a process with one thread that has imported what workers need, and forks them within milliseconds.

    python -P -m atoll.nodeagent.zygote --control-fd N

It runs in the kernel's environment: its interpreter, working directory, variables. What else it must know comes over
the control socket. It never imports what starts threads or touches a GPU: neither survives a fork.

Its work, in the order of importance: fork whom somebody waits for; report and clean up after those that ended; import
one module more; fork those that nobody waits for yet. So a first worker is there before everything is imported, and
those after it share the memory of what is.

All that its workers ever start stays below it: it adopts orphans. Each worker marks its descent, so that an orphan
tells which worker it comes from, whatever it did to be a daemon. When a worker ends, all that came from it is killed.
When the agent goes away, and with it the other end of the control socket, everything below is killed and the zygote
exits; a signal tells it of the agent's end even in the midst of an import (claim R4). If the zygote itself is killed,
the system kills its workers (PDEATHSIG).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import NoReturn

from atoll.nodeagent import processes
from atoll.nodeagent.zygote_messages import (
    Exited,
    Fork,
    Forked,
    ForkRefused,
    Kill,
    Preloaded,
    Prepare,
    Ready,
    ZygoteMessage,
    decode_in_zygote,
    encode,
)
from atoll.protocol.framing import FrameDecoder, frame
from atoll.protocol.handshake import our_versions

WORKER_VARIABLE = "ATOLL_WORKER_ID"
"""Set in every worker, so that what it starts can be told from what others start."""

_END_WITHIN_S = 1.5
_READ_BYTES = 64 * 1024
_MAXIMUM_DESCRIPTORS = 64
_OOM_SCORE = 500


class _EndedError(BaseException):
    """The agent is gone while a module is being imported: that may take longer than there is time."""


class Zygote:
    """The zygote's loop.

    Args:
        control: The socket to the agent.
        before: Directories of a `runtime_env` that are searched before the kernel's.
        packages: The packages of a `runtime_env`, searched after those and before the kernel's.
    """

    def __init__(self, control: socket.socket, before: list[str], packages: list[str]) -> None:
        self._control = control
        self._before = before
        self._packages = packages
        self._decoder = FrameDecoder()
        self._prepare: Prepare | None = None
        self._to_import: deque[str] = deque()
        self._imported: list[str] = []
        self._waiting: deque[Fork] = deque()
        self._workers: dict[int, bytes] = {}
        self._descriptors: deque[int] = deque()
        self._locks: dict[bytes, list[int]] = {}
        self._began = time.monotonic()
        self._wakeup, wakeup_writer = socket.socketpair()
        self._wakeup.setblocking(False)
        wakeup_writer.setblocking(False)
        self._wakeup_writer = wakeup_writer
        self._ending = False
        self._importing = False

    def run(self) -> Fork | None:
        """Serve until the agent goes away.

        Returns:
            None in the zygote itself, when it is to exit; in a forked child, what it is to become.
        """
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while not self._is_over():
            busy = bool(self._to_import or self._waiting)
            for descriptor, _events in poll.poll(0 if busy else None):
                if descriptor == self._control.fileno():
                    self._read()
                else:
                    self._collect()
            with contextlib.suppress(_EndedError):
                mine = None if self._is_over() else self._step()
                if mine is not None:
                    return mine
        processes.kill_descendants(_END_WITHIN_S)
        return None

    @property
    def worker_module(self) -> str:
        """Where `run_worker` is."""
        assert self._prepare is not None, "no child is forked before the zygote knows what it is for"
        return self._prepare.worker_module

    def forget(self) -> None:
        """In a child: let go of the zygote's sockets without touching the descriptors, which are closed together."""
        for inherited in (self._control, self._wakeup, self._wakeup_writer):
            inherited.detach()

    def _is_over(self) -> bool:
        return self._ending

    def listen_to_signals(self) -> None:
        """Wake up when a child has ended; end when told to."""

        def end(_number: int, _frame: FrameType | None) -> None:
            self._ending = True
            if self._importing:
                raise _EndedError

        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    # ------------------------------------------------------------------------------------------------ messages

    def _send(self, message: ZygoteMessage) -> None:
        try:
            self._control.sendall(frame(encode(message)))
        except OSError:
            self._ending = True

    def _read(self) -> None:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(
                self._control, _READ_BYTES, _MAXIMUM_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            self._descriptors.extend(descriptors)
        except ConnectionError:
            data = b""
        if not data:
            self._ending = True
            return
        for body in self._decoder.feed(data):
            message = decode_in_zygote(body)
            if isinstance(message, Prepare):
                self._begin(message)
            elif isinstance(message, Kill):
                self._kill(message.worker_id)
            else:
                # A message's descriptors come with its first byte: they are here when the whole of it is.
                self._locks[message.start.worker_id] = [self._descriptors.popleft() for _ in range(message.locks)]
                self._waiting.append(message)

    def _kill(self, worker_id: bytes) -> None:
        for fork in self._waiting:
            if fork.start.worker_id == worker_id:
                self._waiting.remove(fork)
                self._refuse(worker_id, "it was not wanted any more")
                return
        for pid, known in self._workers.items():
            if known == worker_id:
                processes.kill_group(pid)
                processes.kill([pid])
                return

    def _begin(self, prepare: Prepare) -> None:
        """Take the kernel's search path and import what every worker runs; then forks can begin."""
        self._prepare = prepare
        sys.path[:] = self._search_path(prepare)
        importlib.import_module(prepare.worker_module)
        versions = our_versions()
        self._send(Ready(os.getpid(), versions.protocol, versions.atoll, versions.python))
        self._to_import.extend(prepare.preload)

    def _search_path(self, prepare: Prepare) -> list[str]:
        return [*self._before, *self._packages, *prepare.sys_path]

    # ----------------------------------------------------------------------------------------------- one step

    def _step(self) -> Fork | None:
        """Do the most important thing there is to do."""
        if self._prepare is None:
            return None
        urgent = next((fork for fork in self._waiting if fork.urgent), None)
        if urgent is not None:
            self._waiting.remove(urgent)
            return self._fork(urgent)
        if self._to_import:
            self._import_next(self._prepare)
            return None
        if self._waiting:
            return self._fork(self._waiting.popleft())
        return None

    def _import_next(self, prepare: Prepare) -> None:
        name = self._to_import.popleft()
        sys.path[:] = [*self._packages, *(entry for entry in prepare.sys_path if entry not in prepare.without)]
        self._importing = True
        try:
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
                self._imported.append(name)
        except Exception as error:
            # A library that is broken here is the user's to see, where their own code imports it.
            print(f"{name} was not preloaded: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            self._importing = False
            sys.path[:] = self._search_path(prepare)
        if not self._to_import:
            gc.collect()
            gc.freeze()
            self._send(Preloaded(self._imported, time.monotonic() - self._began))

    def _fork(self, fork: Fork) -> Fork | None:
        """Fork; returns the request in the child and None in the zygote."""
        threads = processes.thread_count()
        if threads != 1:
            text = f"a library preloaded by {sys.executable} has started {threads - 1} threads, which no fork survives"
            self._refuse(fork.start.worker_id, text)
            return None
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            self._refuse(fork.start.worker_id, f"the system forks no more: {error.strerror}")
            return None
        if pid == 0:
            return fork
        self._workers[pid] = fork.start.worker_id
        self._let_go(fork.start.worker_id)
        self._send(Forked(fork.start.worker_id, pid))
        return None

    def _refuse(self, worker_id: bytes, text: str) -> None:
        self._let_go(worker_id)
        self._send(ForkRefused(worker_id, text))

    def _let_go(self, worker_id: bytes) -> None:
        """The locks of a worker's devices are its own now, or nobody's."""
        for descriptor in self._locks.pop(worker_id, ()):
            os.close(descriptor)

    def locks_of(self, fork: Fork) -> list[int]:
        """Return the descriptors that a child is to keep."""
        return self._locks.get(fork.start.worker_id, [])

    # -------------------------------------------------------------------------------------------------- exits

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(_READ_BYTES)
        ended: dict[int, tuple[bytes, int]] = {}
        for pid, status in processes.reap_all():
            worker_id = self._workers.pop(pid, None)
            if worker_id is not None:
                processes.kill_group(pid)
                ended[pid] = worker_id, status
        self._end_orphans({pid: worker_id for pid, (worker_id, _status) in ended.items()})
        for pid, (worker_id, status) in ended.items():
            self._send(Exited(worker_id, pid, status))

    def _end_orphans(self, ended: dict[int, bytes]) -> None:
        """Kill the orphans whose worker is no more.

        What is killed may have forked a moment before. Then its child is adopted, its end told, and we are here again.

        Args:
            ended: Workers that have just ended. Where nothing can be marked, session and variables tell what is theirs.
        """
        names = [f"{WORKER_VARIABLE}={worker_id.hex()}".encode() for worker_id in ended.values()]
        for orphan in processes.children(os.getpid()):
            origin = processes.origin_of(orphan)
            if orphan in self._workers or origin in self._workers:
                continue
            named = any(processes.has_variable(orphan, name) for name in names)
            if origin in ended or named or processes.mark_of(orphan):
                processes.kill([*processes.descendants(orphan), orphan])


def become_worker(fork: Fork, zygote_pid: int, locks: list[int]) -> None:
    """Turn a freshly forked child into a process of its own, with its own output, variables and randomness."""
    os.setsid()
    processes.mark_descent()
    processes.die_with_parent(zygote_pid)
    processes.reset_signals()
    _redirect(fork)
    processes.close_descriptors_from(3, locks)
    processes.close_last(locks)  # the driver's descriptors are closed before, and its memory is free
    processes.prefer_as_victim(_OOM_SCORE)
    for name, value in fork.variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.environ[WORKER_VARIABLE] = fork.start.worker_id.hex()
    _reseed()
    if fork.threads > 1:
        _allow_threads(fork.threads)
    importlib.invalidate_caches()
    sys.argv = ["atoll-worker"]
    gc.enable()


def _redirect(fork: Fork) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(fork.output_path, flags, 0o600)
    error = os.open(fork.error_path, flags, 0o600)
    for source, target in ((null, 0), (output, 1), (error, 2)):
        os.dup2(source, target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _reseed() -> None:
    """Give this child other random numbers than its siblings."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _allow_threads(threads: int) -> None:
    """Let libraries that were imported with one thread use more: they read the variables only once."""
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.set_cpu_count(threads)
    import ctypes

    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    libraries = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "openblas" in line}
    for path in sorted(libraries):
        library = ctypes.CDLL(path)
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                set_threads = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                if set_threads is not None:
                    set_threads(threads)
                    return


def _run_child(fork: Fork, zygote_pid: int, worker_module: str, locks: list[int]) -> NoReturn:
    become_worker(fork, zygote_pid, locks)
    importlib.import_module(worker_module).run_worker(fork.start)
    sys.exit(0)


def main() -> None:
    """Run the zygote; in a forked child, the worker."""
    parser = argparse.ArgumentParser(prog="atoll.nodeagent.zygote")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--before", action="append", default=[])
    parser.add_argument("--site", action="append", default=[])
    arguments = parser.parse_args()
    agent_pid = os.getppid()
    processes.adopt_orphans()
    gc.disable()
    zygote_pid = os.getpid()
    control = socket.socket(fileno=arguments.control_fd)
    control.set_inheritable(False)
    zygote = Zygote(control, arguments.before, arguments.site)
    zygote.listen_to_signals()
    with contextlib.suppress(ProcessLookupError):  # then the control socket is at its end, too
        processes.die_with_parent(agent_pid, signal.SIGTERM)
    fork = zygote.run()
    if fork is None:
        return
    zygote.forget()
    _run_child(fork, zygote_pid, zygote.worker_module, zygote.locks_of(fork))


if __name__ == "__main__":
    main()

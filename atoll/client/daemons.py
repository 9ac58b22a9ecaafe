"""The two daemon processes as their starter sees them: start, wait until ready, look whether they live, end them.

A daemon runs in a session of its own, so that a signal for the kernel or the Jupyter server never reaches it, and in
the session directory, so that no file beside a notebook shadows a module. Its output goes to a log file. It says that
it listens by one byte on a pipe; a pipe that closes without it is a daemon that died. The key is in the connection
file, never in an argument or a variable.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from atoll.config import Settings
from atoll.exceptions import ClusterStartError
from atoll.protocol.cluster_file import ClusterFile, node_socket
from atoll.protocol.runtime_directory import open_private

SCHEDULER = "scheduler"
AGENT = "agent"
MODULES = {SCHEDULER: "atoll.scheduler", AGENT: "atoll.nodeagent"}

CLOSING_S = 5.0
"""How long a daemon may take after SIGTERM."""

_LOG_LINES = 15
_OWNER_ONLY = 0o077

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Daemons that this process started and has not seen end. Kept so that they can be reaped."""


def log_path(cluster: ClusterFile, daemon: str) -> Path:
    """Return the log file of a daemon."""
    return Path(cluster.directory) / "logs" / f"{daemon}.log"


def log_tail(cluster: ClusterFile, daemon: str, lines: int = _LOG_LINES) -> str:
    """Return the last lines of a daemon's log, or an empty text."""
    try:
        with log_path(cluster, daemon).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 32 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def socket_path(cluster: ClusterFile, daemon: str) -> str:
    """Return the path of a daemon's socket."""
    return cluster.scheduler_socket if daemon == SCHEDULER else cluster.agent_socket


def pid_of(cluster: ClusterFile, daemon: str) -> int:
    """Return a daemon's process id; 0 if it has none yet."""
    return cluster.scheduler_pid if daemon == SCHEDULER else cluster.agent_pid


def start_daemons(
    cluster: ClusterFile, path: Path, daemons: Iterable[str], settings: Settings
) -> dict[str, subprocess.Popen[bytes]]:
    """Start daemons in parallel and return when each of them listens.

    Args:
        cluster: What the connection file says; it is written already.
        path: Of the connection file.
        daemons: `SCHEDULER`, `AGENT` or both. They must not be running.
        settings: What they are to know.

    Raises:
        ClusterStartError: One did not come up; it ends with the last lines of its log. None of them runs then.
    """
    started: dict[str, subprocess.Popen[bytes]] = {}
    pipes: dict[int, str] = {}
    try:
        for daemon in daemons:
            readable, writable = os.pipe()
            pipes[readable] = daemon
            try:
                started[daemon] = _spawn(cluster, path, daemon, settings, writable)
            finally:
                os.close(writable)
        _wait_until_ready(cluster, pipes, settings.start_timeout_s)
    except BaseException:
        end_processes([process.pid for process in started.values()])
        raise
    finally:
        for readable in pipes:
            os.close(readable)
    return started


def start_node(cluster: ClusterFile, path: Path, name: str, settings: Settings) -> subprocess.Popen[bytes]:
    """Start one more node agent on this host and return when it listens.

    The cluster has a further node then, with workers and an object store of its own: what needs several nodes can be
    tried on one machine. `atoll drain NAME` takes it away.

    Args:
        cluster: A cluster that runs.
        path: Of its connection file.
        name: Of the node: letters, digits and `-`, 16 at most.
        settings: What the node offers.

    Raises:
        ValueError: The name is none.
        ClusterStartError: The agent did not come up; the text ends with the last lines of its log.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]{1,16}", name):
        raise ValueError(f"{name!r} is no name of a node: write letters, digits and '-', 16 at most")
    readable, writable = os.pipe()
    try:
        try:
            process = _spawn(cluster, path, AGENT, settings, writable, name)
        finally:
            os.close(writable)
        _wait_until_ready(cluster, {readable: f"{AGENT}-{name}"}, settings.start_timeout_s)
    finally:
        os.close(readable)
    return process


def _spawn(
    cluster: ClusterFile, path: Path, daemon: str, settings: Settings, ready: int, node: str = ""
) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise ClusterStartError("this program does not know its Python interpreter; run `atoll up` in a terminal")
    # What listened here before is dead, or we would not start another one.
    Path(node_socket(cluster, node) if node else socket_path(cluster, daemon)).unlink(missing_ok=True)
    # fmt: off
    command = [
        sys.executable, "-P", "-m", MODULES[daemon],
        "--cluster-file", str(path),
        "--ready-fd", str(ready),
        *(["--node", node] if node else []),
    ]
    # fmt: on
    log = open_private(
        log_path(cluster, f"{daemon}-{node}" if node else daemon), os.O_WRONLY | os.O_CREAT | os.O_APPEND
    )
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(ready,),
            start_new_session=True,
            cwd=cluster.directory,
            env=os.environ | settings.environment(),
            # The scheduler has no children; the agent's workers need the umask of the user.
            umask=_OWNER_ONLY if daemon == SCHEDULER else -1,
        )
    except OSError as error:
        raise ClusterStartError(f"cannot start {sys.executable}: {error}") from None
    finally:
        os.close(log)
    _children[process.pid] = process
    return process


def _wait_until_ready(cluster: ClusterFile, pipes: dict[int, str], timeout_s: float) -> None:
    waiting = dict(pipes)
    deadline = time.monotonic() + timeout_s
    poll = select.poll()  # select() takes no descriptor above 1023
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while waiting:
        readable = [descriptor for descriptor, _mask in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
        if not readable:
            names = " and ".join(sorted(waiting.values()))
            raise ClusterStartError(
                f"the {names} did not listen within {timeout_s:g} s (ATOLL_START_TIMEOUT_S){_tails(cluster, waiting)}"
            )
        for descriptor in readable:
            poll.unregister(descriptor)
            daemon = waiting.pop(descriptor)
            if not os.read(descriptor, 1):
                raise ClusterStartError(f"the {daemon} ended while it started{_tails(cluster, {0: daemon})}")


def _tails(cluster: ClusterFile, daemons: dict[int, str]) -> str:
    """Return what the logs of these daemons end with, for an error message."""
    parts = []
    for daemon in sorted(daemons.values()):
        tail = log_tail(cluster, daemon)
        parts.append(f"; the end of its log:\n{tail}" if tail else "; it wrote nothing to its log")
    return "".join(parts)


def is_alive(cluster: ClusterFile, daemon: str, path: Path) -> bool:
    """Tell whether a daemon's process runs. Another process that has got its number does not count."""
    reap()
    return is_daemon_process(pid_of(cluster, daemon), daemon, path)


def is_daemon_process(pid: int, daemon: str, path: Path) -> bool:
    """Tell whether a process is this daemon of the cluster with this connection file, and runs."""
    if pid <= 0:
        return False
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        command = process.cmdline()
    except psutil.Error:
        return False
    return MODULES[daemon] in command and str(path) in command


def reap() -> None:
    """Take note of daemons of ours that have ended, so that they do not stay as zombies."""
    for pid, process in list(_children.items()):
        if process.poll() is not None:
            _children.pop(pid, None)


def end_processes(pids: Iterable[int]) -> None:
    """End processes and their groups, and return when they have ended: ask (SIGTERM), then kill (SIGKILL).

    Args:
        pids: Leaders of process groups that were checked to be ours. Those that have ended already are fine.
    """
    wanted = [pid for pid in pids if pid > 0]
    left = wait_for_end(wanted, 0.0)
    if left:
        _signal_groups(left, signal.SIGTERM)
        left = wait_for_end(left, CLOSING_S)
    # What a leader left behind in its group goes in any case.
    _signal_groups(wanted, signal.SIGKILL)
    wait_for_end(left, 5.0)
    reap()


def _signal_groups(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        # A group can be gone, and one of whom only zombies are left may refuse.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)


def wait_for_end(pids: Iterable[int], timeout_s: float, look: Callable[[], None] = reap) -> list[int]:
    """Wait until processes have ended, reaped by their parent or not.

    Args:
        pids: Of whatever parent.
        timeout_s: How long, for all of them together.
        look: Called once all have ended or the time is over; reaps ours.

    Returns:
        Those that still run.
    """
    deadline = time.monotonic() + timeout_s
    descriptors: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if pid > 0:
                descriptors[os.pidfd_open(pid)] = pid
    try:
        poller = select.poll()
        for descriptor in descriptors:
            poller.register(descriptor, select.POLLIN)
        running = dict(descriptors)
        while running:
            ended = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ended:
                break
            for descriptor, _event in ended:
                poller.unregister(descriptor)
                running.pop(descriptor)
        look()
        return list(running.values())
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

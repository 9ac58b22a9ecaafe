"""Find, start and stop the cluster of this user on this host.

    find_cluster ── connection file there? ── scheduler answers and proves the key? ──▶ attach
         │                  no                        no: stale, removed
         ▼
    start_cluster ── lock ── look again ── make session directory, connection file ── start both daemons ──▶ attach

One lock file, beside the connection file, makes starting and stopping exclusive: two kernels that start at once get
one cluster, and nobody takes the half-written state of a cluster that is starting for a stale one.

A cluster of which one daemon has died is not dead: the other one holds its objects or its names. Whoever starts a
cluster then starts the missing daemon for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec

from atoll.client.connection import Connection
from atoll.client.daemons import (
    AGENT,
    SCHEDULER,
    end_processes,
    is_alive,
    pid_of,
    reap,
    socket_path,
    start_daemons,
    wait_for_end,
)
from atoll.config import Settings
from atoll.config import settings as read_settings
from atoll.exceptions import AtollError, ClusterLostError, ClusterStartError
from atoll.ids import new_process_id
from atoll.protocol.cluster_file import (
    ClusterFile,
    default_path,
    read_cluster_file,
    remove_cluster_file,
    write_cluster_file,
)
from atoll.protocol.handshake import KEY_BYTES, Identity
from atoll.protocol.messages import StopCluster
from atoll.protocol.runtime_directory import (
    host_name,
    make_runtime_root,
    make_session_directory,
    open_private,
    remove_session_directory,
)

DAEMONS = (SCHEDULER, AGENT)
_LOOK_AGAIN_S = 0.02
_STOP_TIMEOUT_S = 10.0
_AGENT_ENDS_WITHIN_S = 1.0


def find_cluster(path: str | Path | None = None) -> ClusterFile | None:
    """Return the cluster that runs, or None. What is left of one that does not run is removed.

    Args:
        path: Of the connection file, if not the usual one.

    Raises:
        InsecureDirectoryError: The connection file or its directory is not ours alone.
        AuthenticationError: What listens there does not know the key in the file.
        VersionMismatchError: The cluster runs another version of Atoll.
        ProtocolError: The file is no connection file.
    """
    reap()
    path = Path(path) if path else default_path()
    try:
        cluster = read_cluster_file(path)
    except FileNotFoundError:
        return None
    if answers(cluster, SCHEDULER):
        return cluster
    # Whoever holds the lock is starting or stopping it: that is for `start_cluster` to wait for.
    with contextlib.suppress(ClusterStartError), exclusive(path, 0.0):
        _remove_if_stale(path)
    return None


def answers(cluster: ClusterFile, daemon: str) -> bool:
    """Tell whether a daemon listens and proves the cluster's key.

    Raises:
        AuthenticationError: It does not know the key.
        VersionMismatchError: It is of another version.
    """
    try:
        Connection(socket_path(cluster, daemon), cluster.key_bytes(), Identity("client", new_process_id())).close()
    except ClusterLostError:
        return False
    return True


def start_cluster(
    *,
    linger_s: float | None,
    started_by: str,
    settings: Settings | None = None,
    path: str | Path | None = None,
) -> ClusterFile:
    """Return the cluster that runs, or start one.

    Args:
        linger_s: How long a cluster started here stays without a client; None for ever.
        started_by: For people: `jupyter`, `atoll up`, `kernel`.
        settings: For a cluster started here; read from the environment if not given.
        path: Of the connection file, if not the usual one.

    Raises:
        ClusterStartError: It could not be started; ends with the log of the daemon that failed.
        ValueError: A setting in the environment cannot be read.
        ClusterError: As `find_cluster`.
    """
    return start_or_attach(linger_s=linger_s, started_by=started_by, settings=settings, path=path)[0]


def start_or_attach(
    *,
    linger_s: float | None,
    started_by: str,
    settings: Settings | None = None,
    path: str | Path | None = None,
) -> tuple[ClusterFile, bool]:
    """Do what `start_cluster` does, and tell whether the cluster was started by this call."""
    path = Path(path) if path else default_path()
    settings = settings or read_settings()
    running = find_cluster(path)
    if running is not None:
        return running, False
    make_runtime_root(path.parent)
    with exclusive(path, settings.start_timeout_s + _STOP_TIMEOUT_S):
        running = revive(path, settings)
        if running is not None:
            return running, False
        return _start_fresh(path, linger_s, started_by, settings), True


def revive(path: Path, settings: Settings) -> ClusterFile | None:
    """Start whichever daemon of a cluster has died while the other one lives. The caller holds the lock.

    Returns:
        The cluster, whole again, or None if there is none: then nothing is left of it.

    Raises:
        ClusterStartError: A daemon could not be started, or runs and does not answer.
    """
    try:
        cluster = read_cluster_file(path)
    except FileNotFoundError:
        return None
    answering = [daemon for daemon in DAEMONS if answers(cluster, daemon)]
    for daemon in DAEMONS:
        if daemon not in answering and is_alive(cluster, daemon, path):
            raise ClusterStartError(
                f"the {daemon} (pid {pid_of(cluster, daemon)}) runs and does not answer; "
                "run `atoll doctor`, or `atoll down` to end it"
            )
    if not answering:
        _remove_if_stale(path)
        return None
    missing = [daemon for daemon in DAEMONS if daemon not in answering]
    return _run_daemons(cluster, path, missing, settings) if missing else cluster


def _start_fresh(path: Path, linger_s: float | None, started_by: str, settings: Settings) -> ClusterFile:
    host, cluster_id = host_name(), secrets.token_hex(4)
    directory = make_session_directory(path.parent, host, cluster_id)
    cluster = ClusterFile(
        cluster_id=cluster_id,
        key=secrets.token_hex(KEY_BYTES),
        host=host,
        version=metadata.version("atoll"),
        directory=str(directory),
        scheduler_socket=str(directory / "scheduler.sock"),
        agent_socket=str(directory / "agent.sock"),
        linger_s=linger_s,
        started_by=started_by,
        scheduler_pid=0,
        agent_pid=0,
    )
    try:
        write_cluster_file(path, cluster)
        return _run_daemons(cluster, path, DAEMONS, settings)
    except BaseException:
        remove_cluster_file(path, cluster_id)
        remove_session_directory(directory)
        raise


def _run_daemons(
    cluster: ClusterFile, path: Path, daemons: tuple[str, ...] | list[str], settings: Settings
) -> ClusterFile:
    """Start daemons and write their process ids into the connection file."""
    started = start_daemons(cluster, path, daemons, settings)
    pids = {f"{daemon}_pid": process.pid for daemon, process in started.items()}
    cluster = msgspec.structs.replace(cluster, **pids)
    write_cluster_file(path, cluster)
    return cluster


def stop_cluster(cluster: ClusterFile, timeout_s: float = _STOP_TIMEOUT_S, *, path: str | Path | None = None) -> None:
    """End a cluster and return when both daemons, their sockets and files are gone.

    It is asked first. What does not end in time, or cannot be asked (it hangs, or is of another version), is ended by
    signals.

    Args:
        cluster: Which.
        timeout_s: How long it may take to end when asked.
        path: Of the connection file, if not the usual one.

    Raises:
        ClusterStartError: Somebody else is starting or stopping it at this moment and does not finish.
    """
    path = Path(path) if path else default_path()
    if not path.parent.exists():
        return
    with exclusive(path, timeout_s + 2 * _STOP_TIMEOUT_S):
        with contextlib.suppress(AtollError, FileNotFoundError):
            current = read_cluster_file(path)
            if current.cluster_id == cluster.cluster_id:
                cluster = current  # a daemon may have been started again since
        pids = [pid_of(cluster, daemon) for daemon in DAEMONS if is_alive(cluster, daemon, path)]
        if _ask_to_stop(cluster) and not wait_for_end([cluster.scheduler_pid], timeout_s):
            # The scheduler goes last, so an agent that is still there had not registered and was not told.
            wait_for_end([cluster.agent_pid], _AGENT_ENDS_WITHIN_S)
        end_processes(pids)
        remove_session_directory(Path(cluster.directory))
        remove_cluster_file(path, cluster.cluster_id)


def _ask_to_stop(cluster: ClusterFile) -> bool:
    """Send StopCluster; tell whether it was accepted."""
    identity = Identity("client", new_process_id())
    try:
        with Connection(cluster.scheduler_socket, cluster.key_bytes(), identity) as connection:
            connection.request(StopCluster(connection.next_request()), timeout_s=5.0)
    except (AtollError, TimeoutError):
        return False
    return True


def _remove_if_stale(path: Path) -> None:
    """Remove what is left of a cluster of which no daemon runs. The caller holds the lock."""
    try:
        cluster = read_cluster_file(path)
    except FileNotFoundError:
        return
    if any(is_alive(cluster, daemon, path) or answers(cluster, daemon) for daemon in DAEMONS):
        return
    remove_session_directory(Path(cluster.directory))
    remove_cluster_file(path, cluster.cluster_id)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


@contextlib.contextmanager
def exclusive(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock of starting and stopping. It ends with this process, whatever happens to it.

    Raises:
        ClusterStartError: Somebody else held it for `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    descriptor = open_private(_lock_path(path), os.O_RDWR | os.O_CREAT)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ClusterStartError(
                        f"another process is starting or stopping the cluster and holds {_lock_path(path)}"
                    ) from None
                time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)

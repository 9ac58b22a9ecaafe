"""The connection file: how a kernel, the CLI and the daemons find the one cluster of this user on this host.

It holds the cluster's key, so whoever reads it owns the cluster. It is 0600 from the first moment (the umask cannot
open it, and a rename makes it appear whole), and a file that others could have read or written is not believed.
Its path is stable for a user and host: a kernel that restarts finds the cluster of now, never an address of before.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from atoll.exceptions import ProtocolError
from atoll.protocol.runtime_directory import PREFIX, check_directory, host_name, open_private, runtime_root

MAXIMUM_BYTES = 64 * 1024


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known to speak with a cluster.

    Attributes:
        cluster_id: Of this run of the cluster, hex.
        key: 32 bytes, hex. Never shown, logged, or passed in an argument or variable.
        host: Where it runs.
        version: Atoll's, of who started it.
        directory: The session directory: sockets, `logs/`, `workers/`, the journal.
        scheduler_socket: Path of the scheduler's socket.
        agent_socket: Path of the node agent's socket.
        linger_s: How long the cluster stays without a client; None for ever.
        started_by: For people: `jupyter`, `atoll up`, `kernel`.
        scheduler_pid: 0 while it starts.
        agent_pid: 0 while it starts.
    """

    cluster_id: str
    key: str
    host: str
    version: str
    directory: str
    scheduler_socket: str
    agent_socket: str
    linger_s: float | None
    started_by: str
    scheduler_pid: int
    agent_pid: int

    def key_bytes(self) -> bytes:
        """Return the key as `Connection` and `Endpoint` take it."""
        return bytes.fromhex(self.key)

    def __repr__(self) -> str:
        """Describe it without its key, which must not reach a log or a notebook."""
        return f"ClusterFile({self.cluster_id} on {self.host}, {self.directory})"


def node_directory(cluster: ClusterFile, name: str) -> Path:
    """Return where a node agent keeps what is its own: the session directory, for the first node of a host."""
    return Path(cluster.directory) / "nodes" / name if name else Path(cluster.directory)


def node_socket(cluster: ClusterFile, name: str) -> str:
    """Return the path of a node agent's socket."""
    return str(Path(cluster.directory) / f"agent-{name}.sock") if name else cluster.agent_socket


def default_path() -> Path:
    """Return where the connection file of this user's cluster on this host is, or will be."""
    return runtime_root() / f"{PREFIX}{host_name()}.json"


def read_cluster_file(path: str | Path) -> ClusterFile:
    """Read a connection file.

    Raises:
        FileNotFoundError: There is none.
        InsecureDirectoryError: The file or its directory is a link, somebody else's, or open to others.
        ProtocolError: It is no connection file, or one of a version that is written otherwise.
    """
    path = Path(path)
    check_directory(path.parent, private=False)
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        data = file.read(MAXIMUM_BYTES + 1)
    try:
        if len(data) > MAXIMUM_BYTES:
            raise ValueError("it is too long")
        content = msgspec.json.decode(data, type=ClusterFile)
        if len(content.key_bytes()) != 32:
            raise ValueError("its key has the wrong size")
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError(f"{path} is no connection file that this version reads: {error}") from None
    return content


def write_cluster_file(path: str | Path, content: ClusterFile) -> None:
    """Write a connection file: at once whole, 0600 whatever the umask.

    Raises:
        InsecureDirectoryError: Its directory is not ours.
        OSError: It cannot be written.
    """
    path = Path(path)
    check_directory(path.parent, private=False)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    descriptor = open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def remove_cluster_file(path: str | Path, cluster_id: str) -> None:
    """Remove the connection file if it is still that of this cluster; another cluster's stays.

    Raises:
        InsecureDirectoryError: What is there is not ours.
    """
    with contextlib.suppress(FileNotFoundError):
        if read_cluster_file(path).cluster_id == cluster_id:
            Path(path).unlink()

"""A daemon that does nothing but live: it proves the key, says that it is ready, and ends when told to.

It is a real process, started by the real launcher in the place of the scheduler and the agent, for tests of starting
and stopping that need neither. SMALL_DAEMON_FAULT names a fault for one of the two: `scheduler:crash`, `agent:silent`,
`scheduler:stubborn`.
"""

import argparse
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from atoll.exceptions import AtollError
from atoll.protocol.cluster_file import read_cluster_file, remove_cluster_file
from atoll.protocol.framing import frame
from atoll.protocol.handshake import Identity, ServerHandshake, refusal
from atoll.protocol.messages import Done, StopCluster, decode, encode


def main(kind: str) -> None:
    """Be the daemon of this kind: `scheduler` or `agent`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster-file", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    arguments = parser.parse_args()
    fault_of, _, fault = os.environ.get("SMALL_DAEMON_FAULT", "").partition(":")
    if fault_of != kind:
        fault = ""
    if fault == "crash":
        sys.exit(f"the small {kind} cannot start: its disk is made of cheese")
    if fault == "silent":
        time.sleep(60)
    if fault == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cluster = read_cluster_file(arguments.cluster_file)
    path = cluster.scheduler_socket if kind == "scheduler" else cluster.agent_socket
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    os.write(arguments.ready_fd, b"1")
    os.close(arguments.ready_fd)
    if kind == "agent":
        threading.Thread(target=end_with_scheduler, args=(cluster.directory,), daemon=True).start()
    while True:
        serve(
            listener.accept()[0], bytes.fromhex(cluster.key), kind, arguments.cluster_file, stubborn=fault == "stubborn"
        )


def serve(connection: socket.socket, key: bytes, kind: str, path: Path, *, stubborn: bool) -> None:
    with connection:
        handshake = ServerHandshake(key, Identity(kind, b"\0" * 8))
        while not handshake.finished:
            body = receive(connection)
            if body is None:
                return
            try:
                connection.sendall(frame(handshake.receive(body)))
            except AtollError as error:
                connection.sendall(frame(refusal(error)))
                return
        body = receive(connection)
        if body is None:
            return
        message = decode(body)
        assert isinstance(message, StopCluster)
        connection.sendall(frame(encode(Done(message.request))))
    if not stubborn:
        cluster = read_cluster_file(path)
        Path(cluster.directory, "stop").touch()
        remove_cluster_file(path, cluster.cluster_id)
        os._exit(0)


def end_with_scheduler(directory: str) -> None:
    while Path(directory).exists() and not Path(directory, "stop").exists():
        time.sleep(0.01)
    os._exit(0)


def receive(connection: socket.socket) -> bytes | None:
    header = connection.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return None
    return connection.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL)

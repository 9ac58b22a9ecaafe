"""What the machine allows, measured in the same rounds as the systems: no system built on these can be faster.

bare round trip   a pickled call and its pickled answer over a Unix socket between two Python processes
batched calls     pickled calls and answers in batches over that socket: what a stream of calls can reach
memcpy            one copy of as many bytes into memory that was touched before, with one and two threads
"""

from __future__ import annotations

import itertools
import pickle
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

CALL = ("nothing", (), {})
BATCH = 1000
_SIZE = struct.Struct("<I")


def receive(connection: socket.socket) -> bytes:
    """Return one message with a length before it; empty at the end of the stream."""
    header = connection.recv(_SIZE.size, socket.MSG_WAITALL)
    return connection.recv(_SIZE.unpack(header)[0], socket.MSG_WAITALL) if header else b""


def send(connection: socket.socket, body: bytes) -> None:
    """Send one message."""
    connection.sendall(_SIZE.pack(len(body)) + body)


@contextmanager
def echo_process() -> Iterator[socket.socket]:
    """Run another Python process that answers each call, and give the socket to it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "benchmarks.limits", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=(theirs.fileno(),)) as process:
        theirs.close()
        try:
            send(ours, pickle.dumps(CALL))
            receive(ours)
            yield ours
        finally:
            ours.close()  # so that it ends, however we do
        process.wait()


def answer(connection: socket.socket) -> None:
    """Be the other process: unpickle calls, do nothing, pickle the results."""
    while body := receive(connection):
        call = pickle.loads(body)
        if isinstance(call, list):
            send(connection, pickle.dumps([pickle.dumps(run(pickle.loads(one))) for one in call]))
        else:
            send(connection, pickle.dumps(run(call)))


def run(call: tuple[str, tuple[()], dict[str, object]]) -> None:
    """Do what is called: nothing."""
    _name, _args, _kwargs = call


def round_trip_s(connection: socket.socket, count: int) -> list[float]:
    """Return the times of so many single calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        send(connection, pickle.dumps(CALL))
        pickle.loads(receive(connection))
        times.append(time.perf_counter() - start)
    return times


def batched_calls_per_s(connection: socket.socket, count: int) -> float:
    """Return how many calls a second go through in batches."""
    start = time.perf_counter()
    for _ in range(count // BATCH):
        send(connection, pickle.dumps([pickle.dumps(CALL) for _ in range(BATCH)]))
        for result in pickle.loads(receive(connection)):
            pickle.loads(result)
    return count / (time.perf_counter() - start)


def memcpy_bytes_per_s(size_bytes: int, count: int, threads: int) -> list[float]:
    """Return the speeds of so many copies."""
    import numpy as np

    source = np.ones(size_bytes, dtype=np.uint8)
    target = np.ones(size_bytes, dtype=np.uint8)
    speeds = []
    with ThreadPoolExecutor(threads) as pool:
        bounds = [size_bytes * index // threads for index in range(threads + 1)]
        parts = [(target[low:high], source[low:high]) for low, high in itertools.pairwise(bounds)]
        for _ in range(count):
            start = time.perf_counter()
            # NumPy releases the interpreter lock while it copies.
            for done in [pool.submit(np.copyto, into, out_of) for into, out_of in parts]:
                done.result()
            speeds.append(size_bytes / (time.perf_counter() - start))
    return speeds


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        answer(given)

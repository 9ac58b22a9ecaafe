"""A further process beside a host: `python -m benchmarks.newcomer SYSTEM MODE ADDRESS SECONDS`.

start        starts the system itself, prints how long it took from the import to the first result, and ends it
attach       attaches to a system that runs, prints the same, and leaves
throughput   attaches, says `ready`, waits for a line, submits small tasks for so many seconds, prints how many ended
flood        the same with tasks of a millisecond, hundreds of them waiting at any time
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from benchmarks import functions
from benchmarks.systems import System, adapter, key_of
from benchmarks.workload import USUAL_STORE_BYTES

FIRST_BURST = 10
MOST_BURST = 500
BURST_S = 0.02
FLOOD = 500
FLOOD_TASK_S = 0.001


def first_result(system: System, mode: str, address: str) -> float:
    """Return how many seconds a fresh interpreter needs from its import to its first result."""
    with Newcomer(system, mode, address, 0.0) as one:
        return float(one.answer())


class Newcomer:
    """One such process; ends with the context.

    Args:
        system: Whose kind it uses.
        mode: See above.
        address: Of the system that runs; empty to start one.
        seconds: How long it works.
    """

    def __init__(self, system: System, mode: str, address: str, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.newcomer", key_of(system), mode, address, str(seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _line(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("> "):  # libraries print too
                return line[2:].strip()
        raise RuntimeError(f"a further process ended with {self._process.wait()} and said nothing; its log tells more")

    def ready(self) -> None:
        """Wait until it has attached."""
        assert self._line() == "ready"

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Return what it found."""
        return self._line()

    def __enter__(self) -> Newcomer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


def main(key: str, mode: str, address: str, seconds: float) -> None:
    """Be such a process."""
    system = adapter(key)
    began = time.perf_counter()
    if mode == "start":
        with tempfile.TemporaryDirectory(prefix="atoll-bench-", ignore_cleanup_errors=True) as directory:
            system.start(Path(directory), USUAL_STORE_BYTES)
            system.get(system.task(functions.nothing)())
            print(f"> {time.perf_counter() - began}", flush=True)
            system.stop()
        return
    system.attach(address)
    if mode == "attach":
        system.get(system.task(functions.nothing)())
        print(f"> {time.perf_counter() - began}", flush=True)
    else:
        print("> ready", flush=True)
        sys.stdin.readline()
        work = _throughput if mode == "throughput" else _flood
        print(f"> {work(system, seconds)}", flush=True)
    system.detach()


def _throughput(system: System, seconds: float) -> int:
    """Submit bursts that take about `BURST_S` each, whatever a task costs."""
    submit, done, burst = system.task(functions.nothing), 0, FIRST_BURST
    until = time.monotonic() + seconds
    while (start := time.monotonic()) < until:
        system.get_all([submit() for _ in range(burst)])
        done += burst
        if time.monotonic() - start < BURST_S and burst < MOST_BURST:
            burst *= 2
    return done


def _flood(system: System, seconds: float) -> int:
    submit, done = system.task(functions.spin), 0
    until = time.monotonic() + seconds
    waiting = [submit(FLOOD_TASK_S) for _ in range(FLOOD)]
    while time.monotonic() < until:
        system.get_all(waiting[: FLOOD // 10])
        waiting = waiting[FLOOD // 10 :] + [submit(FLOOD_TASK_S) for _ in range(FLOOD // 10)]
        done += FLOOD // 10
    system.get_all(waiting)
    return done


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))

"""Runs systems, one at a time, each in a process of its own: starts it, lets it take its turns, ends it, looks for
what it has left.

A turn that takes too long ends the whole system, and a system that has died is started anew for its next turn, so
that one workload that a system cannot do costs that workload's figures and no others.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import leftovers
from benchmarks.workload import LIMITS, USUAL_STORE_BYTES

ROOT = Path(__file__).resolve().parent.parent
START_WITHIN_S = 90.0
STOP_WITHIN_S = 20.0
ENDS_WITHIN_S = 4.0
"""What a system has started may take so long to go after it was stopped."""


class TookTooLong(Exception):
    """The host did not answer in time."""


class HostDied(Exception):
    """The host ended while it was asked."""


class Host:
    """One host process.

    Args:
        key: The system's, or `LIMITS`.
        store_bytes: How large its store is.
    """

    def __init__(self, key: str, store_bytes: int = USUAL_STORE_BYTES) -> None:
        self.key = key
        # Short, since Unix sockets lie in it.
        self.directory = Path(tempfile.mkdtemp(prefix="ab-", dir="/tmp"))
        self.log = self.directory.with_suffix(".log")
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "benchmarks.host", key, str(self.directory), str(store_bytes)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
            )
        self._socket = ours
        self._buffer = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, within_s: float, **request: Any) -> dict[str, Any]:
        """Let it do something and return its answer.

        Raises:
            TookTooLong: It does not answer in time.
            HostDied: It has ended.
        """
        until = time.monotonic() + within_s
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while b"\n" not in self._buffer:
                self._socket.settimeout(max(0.01, until - time.monotonic()))
                data = self._socket.recv(65536)
                if not data:
                    raise HostDied(f"the process ended with {self._process.wait()}: {self.last_words()}")
                self._buffer += data
        except TimeoutError:
            raise TookTooLong(f"took longer than {within_s:g} s") from None
        except (BrokenPipeError, ConnectionResetError) as error:
            raise HostDied(f"the process is gone ({error.strerror}): {self.last_words()}") from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_words(self) -> str:
        """Return the last line that it has printed."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else "it printed nothing"

    def close(self) -> list[str]:
        """End it, and everything that it has started and left; return what that was."""
        self._socket.close()
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        left = leftovers.remaining(ENDS_WITHIN_S)
        leftovers.end(list(left))
        shutil.rmtree(self.directory, ignore_errors=True)
        self.log.unlink()
        return list(left.values())


class Conductor:
    """Gives turns to one system at a time.

    Args:
        say: Called with a line of progress.

    Attributes:
        remarks: What systems have left behind, or did not survive: by system.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._host: Host | None = None
        self._started = False
        self._store_bytes = USUAL_STORE_BYTES
        self.remarks: dict[str, list[str]] = {}

    def __enter__(self) -> Conductor:
        leftovers.adopt_orphans()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.end_system()

    def turn(
        self, key: str, name: str, scale: float, *, cap_s: float, store_bytes: int, started: bool, tiny: bool = False
    ) -> dict[str, Any]:
        """Let a system take its turn at a workload.

        Returns:
            What the host answered: `samples`, `absent`, `notes`; or `error`, one line.
        """
        try:
            self._prepare(key, store_bytes, started=started)
        except (HostDied, TookTooLong) as error:
            self.end_system(stopped=False)
            return {"error": f"FAILED to start: {error}"}
        assert self._host is not None
        try:
            answer = self._host.ask(cap_s, do="measure", name=name, scale=scale, tiny=tiny)
        except TookTooLong:
            self.end_system(stopped=False)
            return {"error": f"over its time: more than {cap_s:g} s, ended"}
        except HostDied as error:
            self.end_system(stopped=False)
            return {"error": f"FAILED: {error}"}
        if answer.get("spoiled"):
            self.end_system(stopped=False)
        return answer

    def _prepare(self, key: str, store_bytes: int, *, started: bool) -> None:
        """Make sure that the host of this system runs, and its system with it if that is wanted."""
        if self._host is not None and (
            self._host.key != key
            or not self._host.alive
            or (started and store_bytes != self._store_bytes)
            or (self._started and not started)
        ):
            self.end_system()
        if self._host is None:
            self._host, self._store_bytes, self._started = Host(key, store_bytes), store_bytes, False
        if started and not self._started and key != LIMITS:
            self._say(f"starting {key}")
            answer = self._host.ask(START_WITHIN_S, do="start")
            if "error" in answer:
                raise HostDied(answer["error"])
            self._started = True

    def end_system(self, *, stopped: bool = True) -> None:
        """End the system that runs, if any, and look for what it leaves.

        Args:
            stopped: Whether it is asked to end, as its users would; if not, it is only ended.
        """
        host, self._host = self._host, None
        if host is None:
            return
        if stopped and self._started and host.alive:
            try:
                answer = host.ask(STOP_WITHIN_S, do="stop")
                if "error" in answer:
                    self._remark(host.key, f"did not stop: {answer['error']}")
            except (HostDied, TookTooLong) as error:
                self._remark(host.key, f"did not stop: {error}")
        left = host.close()
        if left and stopped:
            self._remark(host.key, f"left {len(left)} processes after its end: {', '.join(sorted(set(left)))[:200]}")
        files = leftovers.shared_files(host.pid)
        if stopped and files:
            self._remark(host.key, f"left {len(files)} files in /dev/shm, such as {files[0]}")
        self._started = False

    def _remark(self, key: str, text: str) -> None:
        self._say(f"{key} {text}")
        if text not in (known := self.remarks.setdefault(key, [])):
            known.append(text)

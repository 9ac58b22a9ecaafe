"""The process that one system runs in, for one round: `python -m benchmarks.host SYSTEM DIRECTORY STORE_BYTES SOCKET`.

The conductor says what to do, one JSON line each, and gets one line back. Whatever the system prints goes to the log
that the conductor has opened. `limits` is no system: the machine's limits are measured in such a process too.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import leftovers, workloads
from benchmarks.systems import System, adapter, warm_up
from benchmarks.workload import LIMITS, NotOffered, Skipped, Turn, failure_text


class Host:
    """Does what it is told to with one system."""

    def __init__(self, key: str, directory: Path, store_bytes: int) -> None:
        self._system: System | None = None if key == LIMITS else adapter(key)
        self._directory = directory
        self._store_bytes = store_bytes

    def start(self) -> dict[str, Any]:
        """Start the system and warm it up."""
        assert self._system is not None
        self._system.start(self._directory, self._store_bytes)
        warm_up(self._system)
        return {}

    def measure(self, name: str, scale: float, tiny: bool) -> dict[str, Any]:
        """Take a turn at a workload."""
        workload = workloads.ALL[name]
        turn = Turn(self._system, scale, tiny=tiny)
        measure = workload.measure if self._system is not None else workload.limits
        assert measure is not None
        gc.collect()
        try:
            measure(turn)
        except NotOffered as error:
            reason = f"has no {error}"
        except Skipped as error:
            reason = str(error)
        except Exception as error:  # what fails is a result, and it is shown
            traceback.print_exc()
            reason = failure_text(error)
        else:
            reason = ""
        absent = {
            metric.key: turn.absent.get(metric.key, reason or "took no sample")
            for metric in workload.metrics
            if metric.key not in turn.samples
        }
        return {"samples": turn.samples, "absent": absent, "notes": turn.notes, "spoiled": turn.spoiled}

    def stop(self) -> dict[str, Any]:
        """End the system."""
        assert self._system is not None
        self._system.stop()
        return {}


def versions(key: str) -> str:
    """Return the versions of a system, or raise `PackageNotFoundError`."""
    system = adapter(key)
    found = [f"{name} {metadata.version(name)}" for name in system.packages]
    return ", ".join(found) or f"Python {sys.version.split()[0]}"


def main(key: str, directory: str, store_bytes: str, descriptor: str) -> None:
    """Serve the conductor until it closes the connection."""
    leftovers.adopt_orphans()
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)  # a daemon that had it would keep the conductor waiting
    host = Host(key, Path(directory), int(store_bytes))
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            request = json.loads(line)
            try:
                answer = getattr(host, request.pop("do"))(**request)
            except Exception as error:
                traceback.print_exc()
                answer = {"error": failure_text(error)}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A client whose system calls, and whose worker's, are counted: `python -m tests.benchmarks.counted_client PATH COUNT`.

The marks are around so many synchronous tasks, or calls of an actor. What it prints is how many turns other threads of
this process have had meanwhile. Exit code 3: this kernel cannot count.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import atoll
from tests.benchmarks.system_calls import CannotCount, mark, watch_me


@atoll.remote
def nothing() -> None:
    return None


@atoll.remote
def watch_worker(path: str) -> None:
    watch_me(path, "worker")


@atoll.remote
class Idle:
    def nothing(self) -> None:
        return None

    def watch(self, path: str) -> None:
        watch_me(path, "worker")


def turns_of_others() -> int:
    """Return how often the other threads of this process have gone to sleep again so far."""
    turns = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            lines = (task / "status").read_text().splitlines()
            turns += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return turns


def main(path: str, kind: str, count: int) -> None:
    atoll.init(start=False)
    if kind == "actor":
        actor = Idle.remote()
        submit, watch = actor.nothing.remote, actor.watch.remote
    else:
        submit, watch = nothing.remote, watch_worker.remote
    for _ in range(300):
        atoll.get(submit())
    try:
        atoll.get(watch(path))
        watch_me(path, "client")
    except CannotCount as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    for _ in range(20):
        atoll.get(submit())
    before = turns_of_others()
    mark()
    for _ in range(count):
        atoll.get(submit())
    mark()
    print(turns_of_others() - before)
    atoll.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""`python -m benchmarks.run`: measure, and print the table.

--quick           fewer and shorter rounds
--rounds N        how often each system takes its turn (default 5)
--only NAME       only workloads with this in their name; may be given several times
--systems A,B     only these of atoll, ray, process_pool
--json PATH       every sample too
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import workloads
from benchmarks.measure import run_rounds
from benchmarks.report import lines
from benchmarks.systems import System

SYSTEMS = {
    "atoll": ("benchmarks.systems.atoll_system", "AtollSystem"),
    "ray": ("benchmarks.systems.ray_system", "RaySystem"),
    "process_pool": ("benchmarks.systems.process_pool", "ProcessPoolSystem"),
}

STARTING_ORDER = ["ray", "process_pool", "atoll"]


def say(line: str) -> None:
    """Show progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a system that is there failed."""
    options = parse(arguments)
    chosen = [one for one in workloads.ALL if not options.only or any(text in one.NAME for text in options.only)]
    systems: list[System] = []
    failed = False
    try:
        # The slowest to start comes first, while nothing else of ours runs.
        for name in sorted(options.systems, key=STARTING_ORDER.index):
            module, kind = SYSTEMS[name]
            try:
                system: System = getattr(importlib.import_module(module), kind)()
            except ImportError as error:
                say(f"{name} is left out: {error}")
                continue
            say(f"starting {system.name} {system.version}")
            try:
                system.start()
            except Exception as error:  # the others are measured, and the run ends with 1
                say(f"{system.name} is left out, it does not start: {type(error).__name__}: {error}")
                failed = True
                system.stop()
            else:
                systems.append(system)
        systems.sort(key=lambda system: [*workloads.task_async.COUNTS].index(system.name))
        rounds, scale = (min(options.rounds, 2), 0.25) if options.quick else (options.rounds, 1.0)
        run = run_rounds(chosen, systems, rounds, scale, say)
    finally:
        for system in reversed(systems):
            system.stop()
    failed = failed or any("FAILED" in why for row in run.rows for why in row.absent.values())
    print("\n".join(lines(run)))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    return int(failed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Atoll beside its peers, in one run.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="NAME")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=list(SYSTEMS))
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.systems if name not in SYSTEMS]
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())

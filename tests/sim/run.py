"""Runs seeds: `python -m tests.sim.run --seeds 1000 --from 200`, or `--seed 17` for one, with its transcript."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter

from atoll.testing import SimulationFailure
from tests.sim.scenario import Result, run_seed


def main() -> int:
    """Run what the command line says; returns 1 if a seed failed."""
    parser = argparse.ArgumentParser(description="Simulate the whole cluster on a virtual clock.")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--seed", type=int, default=None, help="run only this one and say what happened")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first seed that fails")
    arguments = parser.parse_args()
    seeds = (
        [arguments.seed] if arguments.seed is not None else range(arguments.first, arguments.first + arguments.seeds)
    )
    began = time.perf_counter()
    results: list[Result] = []
    failed: list[int] = []
    for seed in seeds:
        try:
            results.append(run_seed(seed))
        except SimulationFailure as failure:
            failed.append(seed)
            lines = str(failure).splitlines()
            print("\n".join(lines if not arguments.keep_going else [lines[0], *lines[-2:]]), file=sys.stderr)
            if not arguments.keep_going:
                break
        if len(results) % 10 == 0:
            gc.collect()
    report(results, failed, time.perf_counter() - began)
    return 1 if failed else 0


def report(results: list[Result], failed: list[int], took_s: float) -> None:
    """Print what was simulated."""
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for result in results:
        faults += result.faults
        outcomes += result.outcomes
    steps = sum(result.steps for result in results)
    virtual_s = sum(result.virtual_s for result in results)
    tasks = sum(result.tasks for result in results)
    print(f"{len(results)} seeds passed, {len(failed)} failed{f': {failed}' if failed else ''} in {took_s:.1f} s")
    print(f"{tasks} tasks and calls, {steps} steps, {virtual_s:.0f} s of virtual time")
    print("faults:   " + (", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())) or "none"))
    print("outcomes: " + ", ".join(f"{kind} {count}" for kind, count in outcomes.most_common()))
    if len(results) == 1:
        print(f"digest:   {results[0].digest} ({results[0].profile})")


if __name__ == "__main__":
    sys.exit(main())

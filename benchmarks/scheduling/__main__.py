"""Run what is asked for and print it; with `--document`, write pictures and tables of everything into docs/."""

from __future__ import annotations

import argparse
from pathlib import Path

from atoll.scheduler.collecting import collect_seldom
from benchmarks.scheduling import document, throughput
from benchmarks.scheduling.document import Everything

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.scheduling", description="What the scheduler's core is good for.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-throughput", action="store_true", help="leave out the studies")
    parser.add_argument("--document", action="store_true", help="write docs/scheduling.md anew")
    arguments = parser.parse_args()
    collect_seldom()  # as the daemon does
    if arguments.only_throughput:
        print(document.throughput_table(throughput.measure(arguments.nodes, arguments.requests, arguments.rounds)))
        return
    everything = Everything.measured(arguments.nodes, arguments.requests, arguments.rounds)
    text = document.text_of(everything)
    print(text)
    if arguments.document:
        document.write(everything, ROOT / "docs")


if __name__ == "__main__":
    main()

"""Run a scheduler: `python -m atoll.scheduler --cluster-file PATH --ready-fd N`.

When the cluster ends, its session directory and its connection file go with this process, which is the last of it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from atoll.config import settings
from atoll.protocol.cluster_file import read_cluster_file, remove_cluster_file
from atoll.protocol.runtime_directory import check_directory, remove_session_directory
from atoll.scheduler.collecting import collect_seldom
from atoll.scheduler.journal import Journal
from atoll.scheduler.policy.fair_share import Rules
from atoll.scheduler.server import SchedulerServer

JOURNAL_NAME = "journal.sqlite"


def main() -> None:
    """Serve until the cluster ends."""
    parser = argparse.ArgumentParser(prog="atoll.scheduler")
    parser.add_argument("--cluster-file", required=True)
    parser.add_argument("--ready-fd", type=int, default=-1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    cluster = read_cluster_file(arguments.cluster_file)
    directory = Path(cluster.directory)
    check_directory(directory)
    said = settings()
    rules = Rules(said.fairness_half_life_s, tuple(said.weights.items()))
    journal = Journal(directory / JOURNAL_NAME)

    def ready() -> None:
        if arguments.ready_fd >= 0:
            os.write(arguments.ready_fd, b"\n")
            os.close(arguments.ready_fd)
        collect_seldom()

    async def serve() -> None:
        await SchedulerServer(cluster, journal, rules).run(ready)

    try:
        asyncio.run(serve())
    finally:
        journal.close()
    remove_cluster_file(arguments.cluster_file, cluster.cluster_id)
    remove_session_directory(directory)


if __name__ == "__main__":
    main()

"""Run a node agent: `python -m atoll.nodeagent --cluster-file PATH --ready-fd N`.

With `--node NAME` it is one more of this host: see `atoll.client.daemons.start_node`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from atoll.config import settings
from atoll.nodeagent.agent import NodeAgent
from atoll.protocol.cluster_file import read_cluster_file


def main() -> None:
    """Serve until the cluster ends, its scheduler stays away, or a signal comes."""
    parser = argparse.ArgumentParser(prog="atoll.nodeagent")
    parser.add_argument("--cluster-file", required=True)
    parser.add_argument("--ready-fd", type=int, default=-1)
    parser.add_argument("--node", default="")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    cluster = read_cluster_file(arguments.cluster_file)

    def ready() -> None:
        if arguments.ready_fd >= 0:
            os.write(arguments.ready_fd, b"\n")
            os.close(arguments.ready_fd)

    async def serve() -> None:
        agent = NodeAgent(cluster, settings(), name=arguments.node)
        await agent.run(ready)

    asyncio.run(serve())


if __name__ == "__main__":
    main()

"""A node agent whose workers are `small_worker`s: started by tests as `python run_agent.py CLUSTER_FILE READY_FD`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from atoll.config import settings
from atoll.nodeagent.agent import NodeAgent
from atoll.protocol.cluster_file import read_cluster_file


def without_locks() -> None:
    """Take the safeguard away, for tests that show what it is for."""
    from atoll.nodeagent.device_locks import DeviceLocks

    DeviceLocks.take = lambda _locks, _uuids: {}  # type: ignore[method-assign]
    DeviceLocks.descriptors = lambda _locks, _uuids: []  # type: ignore[method-assign]
    DeviceLocks.held_elsewhere = lambda _locks, _uuid: ""  # type: ignore[method-assign]


def main() -> None:
    if os.environ.get("TEST_WITHOUT_LOCKS"):
        without_locks()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    cluster = read_cluster_file(sys.argv[1])
    ready_fd = int(sys.argv[2])
    module = sys.argv[3] if len(sys.argv) > 3 else "small_worker"

    async def serve() -> None:
        agent = NodeAgent(cluster, settings(), worker_module=module)
        await agent.run(lambda: (os.write(ready_fd, b"\n"), os.close(ready_fd))[1])

    asyncio.run(serve())


if __name__ == "__main__":
    main()

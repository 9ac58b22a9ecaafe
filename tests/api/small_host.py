"""A node agent on a host that has little memory: whatever the machine has, its processes see `TOTAL_BYTES` of it."""

from __future__ import annotations

import os
import runpy

from atoll.nodeagent import agent
from atoll.nodeagent.host_memory import HostMemory, HostReading, tree_bytes

TOTAL_BYTES = 1200 * 2**20


class SmallHost(HostMemory):
    def read(self) -> HostReading:
        return HostReading(TOTAL_BYTES, max(0, TOTAL_BYTES - tree_bytes(os.getpid(), exact=False)))


if __name__ == "__main__":
    agent.HostMemory = SmallHost  # type: ignore[misc]
    runpy.run_module("atoll.nodeagent", run_name="__main__")

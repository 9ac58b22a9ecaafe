"""Atoll, in a cluster of its own: the one that the user may have running is not touched."""

from __future__ import annotations

import os
import shutil
import tempfile

from benchmarks.systems.ray_like import RayLike


class AtollSystem(RayLike):
    name = "Atoll"

    def __init__(self) -> None:
        import atoll

        super().__init__(atoll)
        self.version = atoll.__version__
        self._runtime = ""

    def start(self) -> None:
        self._runtime = tempfile.mkdtemp(prefix="atoll-bench-")
        os.environ |= {
            "ATOLL_RUNTIME_DIR": self._runtime,
            "ATOLL_NUM_CPUS": "2",
            "ATOLL_STORE_CAPACITY_BYTES": "4G",
            "ATOLL_LINGER_S": "30",
        }
        self._library.init()
        self.declare()

    def stop(self) -> None:
        from atoll.client.launch import find_cluster, stop_cluster

        self._library.shutdown()
        cluster = find_cluster()
        if cluster is not None:
            stop_cluster(cluster)
        shutil.rmtree(self._runtime, ignore_errors=True)

"""Atoll, as it comes: two CPUs, nothing tuned. In a cluster of its own: the one that the user may have is not touched.

A cluster that a notebook has started outlives it for a while, so `stop` ends it, as `atoll down` does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.systems import WORKERS
from benchmarks.systems.ray_like import RayLike


class AtollSystem(RayLike):
    name = "Atoll"
    packages = ("atoll",)

    @property
    def library(self) -> Any:
        import atoll

        return atoll

    def start(self, directory: Path, store_bytes: int) -> None:
        os.environ |= {
            "ATOLL_RUNTIME_DIR": str(directory),
            "ATOLL_NUM_CPUS": str(WORKERS),
            "ATOLL_STORE_CAPACITY_BYTES": str(store_bytes),
            "ATOLL_LINGER_S": "30",
        }
        self.library.init()

    def stop(self) -> None:
        from atoll.client.launch import find_cluster, stop_cluster

        self.library.shutdown()
        cluster = find_cluster()
        if cluster is not None:
            stop_cluster(cluster)

    def joblib_backend(self) -> str:
        from atoll.util.joblib import register_atoll

        register_atoll()
        return "atoll"

    def address(self) -> str:
        return os.environ["ATOLL_RUNTIME_DIR"]

    def attach(self, address: str) -> None:
        os.environ["ATOLL_RUNTIME_DIR"] = address
        self.library.init(start=False)

    def detach(self) -> None:
        self.library.shutdown()

    def kernel_cell(self) -> tuple[str, str, dict[str, str]]:
        return "%load_ext atoll", "%%remote", {"ATOLL_RUNTIME_DIR": self.address()}

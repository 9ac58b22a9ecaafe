"""Ray, as its documentation starts it on one machine: `ray.init()` with the machine's two CPUs.

What is said beside that is in its favour: no dashboard and no usage report (both take CPU from two cores), workers do
not print to the driver. Its two workers are started before anything is timed, as it does by itself. Actors take no
CPU while they run, which is its default for actors too.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from benchmarks.systems import WORKERS
from benchmarks.systems.ray_like import RayLike

ATTEMPTS = 3
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


class RaySystem(RayLike):
    name = "Ray"
    packages = ("ray",)

    @property
    def library(self) -> Any:
        import ray

        return ray

    def start(self, directory: Path, store_bytes: int) -> None:
        os.environ |= QUIET
        # On a busy machine its own daemons do not find each other within their fixed 15 seconds.
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                self.library.init(
                    num_cpus=WORKERS,
                    object_store_memory=max(store_bytes, 80 * 2**20),
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=str(directory / "r"),
                )
                return
            except Exception:
                self.library.shutdown()
                if not attempts_left:
                    raise

    def stop(self) -> None:
        self.library.shutdown()

    def joblib_backend(self) -> str:
        from ray.util.joblib import register_ray

        register_ray()
        return "ray"

    def address(self) -> str:
        return str(self.library.get_runtime_context().gcs_address)

    def attach(self, address: str) -> None:
        os.environ |= QUIET
        self.library.init(address=address, logging_level=logging.ERROR, log_to_driver=False)

    def detach(self) -> None:
        self.library.shutdown()

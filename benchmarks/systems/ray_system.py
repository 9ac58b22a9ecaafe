"""Ray, without its dashboard: with the same two CPUs and as much shared memory."""

from __future__ import annotations

import logging
import os

from benchmarks.systems.ray_like import RayLike

ATTEMPTS = 3


class RaySystem(RayLike):
    name = "Ray"

    def __init__(self) -> None:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        super().__init__(ray)
        self.version = ray.__version__

    def start(self) -> None:
        # On a busy machine its own daemons do not find each other within their fixed 15 seconds.
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                self._start_once()
                break
            except Exception:
                self._library.shutdown()
                if not attempts_left:
                    raise
        self.declare()

    def _start_once(self) -> None:
        self._library.init(
            num_cpus=2,
            object_store_memory=4 * 2**30,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )

    def stop(self) -> None:
        self._library.shutdown()

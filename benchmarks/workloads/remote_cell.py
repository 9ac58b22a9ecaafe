"""A cell that does nothing, run on a worker by one magic line, over the same cell run by the kernel itself.

In a real kernel, as a frontend sees it: from the request to the kernel's being idle again.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from benchmarks.workload import Metric, Turn, Workload


def measure(turn: Turn) -> None:
    from jupyter_client.manager import KernelManager

    attach, magic, variables = turn.system.kernel_cell()
    manager: Any = KernelManager()
    manager.start_kernel(env=os.environ | variables)
    try:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        _run(client, attach)
        plain, remote = "pass", f"{magic}\npass"
        for _ in range(turn.count(20, least=2)):
            _run(client, remote)
        count = turn.count(int(100 * turn.scale), least=3)
        pairs = [(_run(client, plain), _run(client, remote)) for _ in range(count)]
        base = statistics.median(before for before, _ in pairs)
        turn.record("remote_cell", *((took - base) * 1e3 for _, took in pairs))
        client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


def _run(client: Any, code: str) -> float:
    """Run a cell; return how long it took until the kernel was idle again."""
    start = time.perf_counter()
    request = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "error":
            raise RuntimeError(f"{message['content']['ename']}: {message['content']['evalue']}")
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            took = time.perf_counter() - start
            client.get_shell_msg(timeout=60)
            return took


WORKLOAD = Workload(
    (Metric("remote_cell", "a no-op cell on a worker, over the plain cell", "ms"),),
    measure,
    rounds=2,
    quick=True,
)

"""A source whose cluster is the sample, moving: what a browser test runs in a kernel."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import msgspec

from atoll.protocol.state import ClusterState, SpanState, encode_state
from tests.widgets.sample_state import sample_state


class SampleSource:
    """Yields the sample with the wall clock's time: what runs goes on, percentages wander.

    Args:
        name: As for `sample_state`: put in place of every name that a user chooses.
    """

    def __init__(self, name: str = "", nodes: int = 1) -> None:
        self._began = time.time()
        self._sample = sample_state(now=self._began, name=name, nodes=nodes)
        self.cluster_id = self._sample.cluster_id

    def current(self) -> ClusterState:
        sample = self._sample
        now = time.time()
        passed = now - self._began
        return msgspec.structs.replace(
            sample,
            now=now,
            nodes=[
                msgspec.structs.replace(
                    node,
                    cpu_percent=66 + 22 * math.sin(passed / 3 + index) + 5 * math.sin(passed * 2.3),
                    devices=[
                        msgspec.structs.replace(
                            device,
                            use_percent=min(
                                100.0, max(0.0, device.use_percent + 18 * math.sin(passed / 2 + device.index))
                            ),
                        )
                        if device.held
                        else device
                        for device in node.devices
                    ],
                )
                for index, node in enumerate(sample.nodes)
            ],
            spans=[self._going_on(span, passed) for span in sample.spans],
        )

    def _going_on(self, span: SpanState, passed: float) -> SpanState:
        return msgspec.structs.replace(span, duration_s=span.duration_s + passed) if span.state == "running" else span

    def watch(self, interval_s: float, stopped: threading.Event) -> Iterator[bytes]:
        while not stopped.wait(interval_s):
            yield encode_state(self.current())

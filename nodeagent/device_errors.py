"""Which errors of CUDA leave a process that can do nothing more on its device, and whether the device is to blame.

After most of what CUDA reports (an illegal address, a failed launch, an assertion on the device) every later call in
the process fails with the same error: the worker must be replaced. Only some of these are the device's own fault.
What is an ordinary answer (out of memory, no kernel for this architecture, a wrong argument) is left alone.

Errors are known by their text, which is CUDA's own in whatever library raises it: torch, cupy, numba, jax.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAXIMUM_CHAIN = 8
MAXIMUM_TEXT = 200

_OF_CUDA = re.compile(r"\bCUDA(_ERROR_| error|Driver|Runtime)|\bcudaError|\bCUDA_ERROR", re.IGNORECASE)

_OF_THE_DEVICE = re.compile(
    r"uncorrectable|ECC|hardware stack error|nvlink|has fallen off|gpu is lost|device unavailable|contained error"
    r"|UNCORRECTABLE|HARDWARE_STACK_ERROR|NVLINK|DEVICE_UNAVAILABLE|SYSTEM_NOT_READY|unknown error|CUDA_ERROR_UNKNOWN",
    re.IGNORECASE,
)

_OF_THE_CODE = re.compile(
    r"illegal (memory access|address|instruction)|ILLEGAL_(ADDRESS|INSTRUCTION)|misaligned|launch (failure|failed"
    r"|timed out)|LAUNCH_(FAILED|TIMEOUT)|device-side assert|CUDA_ERROR_ASSERT|invalid (program counter|address space)"
    r"|INVALID_(PC|ADDRESS_SPACE)|context is destroyed|CONTEXT_IS_DESTROYED",
    re.IGNORECASE,
)

Report = Callable[[str, bool], None]

_report: Report | None = None


def watch(report: Report | None) -> None:
    """Say who is told of such errors in this worker: while it holds devices; None otherwise.

    Args:
        report: Takes what CUDA said, and whether the device is to blame.
    """
    global _report
    _report = report


def noticed(error: BaseException) -> None:
    """User code has raised: report it if it leaves the worker of no use on its device."""
    if _report is None:
        return
    found = fatal_text(error)
    if found is not None:
        _report(*found)


def fatal_text(error: BaseException) -> tuple[str, bool] | None:
    """Return what CUDA said and whether the device is to blame, or None if the process can go on."""
    seen: BaseException | None = error
    for _link in range(MAXIMUM_CHAIN):
        if seen is None:
            return None
        text = f"{type(seen).__name__}: {seen}"
        if _OF_CUDA.search(text):
            line = next((line for line in text.splitlines() if line.strip()), text)[:MAXIMUM_TEXT]
            if _OF_THE_DEVICE.search(text):
                return line, True
            if _OF_THE_CODE.search(text):
                return line, False
        seen = seen.__cause__ or seen.__context__
    return None

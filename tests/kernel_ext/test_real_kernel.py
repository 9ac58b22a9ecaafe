"""Cells in a real kernel on a real cluster: the messages are those of a local cell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel_ext.corpus import CORPUS
from tests.kernel_ext.real_kernel import Kernel, running_cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

RESET = "get_ipython().run_line_magic('reset', '-f')"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_cluster() as variables:
        yield variables


@pytest.fixture(scope="module")
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    kernel = Kernel(environment)
    kernel.good("%%remote\npass")
    yield kernel
    kernel.close()


@pytest.mark.parametrize(("before", "cell"), [pytest.param(*rest, id=name) for name, *rest in CORPUS])
def test_a_remote_cell_sends_what_a_local_cell_sends(kernel: Kernel, before: str, cell: str) -> None:
    kernel.good(RESET)
    if before:
        kernel.good(before)
    # The same number of lines, so that the tracebacks can be compared.
    local = kernel.run(f"# %%remote\n{cell}")
    kernel.good(RESET)
    if before:
        kernel.good(before)
    remote = kernel.run(f"%%remote\n{cell}")
    assert remote.messages == local.messages
    assert remote.status == local.status
    assert remote.names == local.names

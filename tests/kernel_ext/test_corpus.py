"""Every cell of the corpus runs in a kernel, and under `%%remote` in another: all that can be seen must be the same."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernel_ext.corpus_cells import CorpusCell, read_corpus
from tests.kernel_ext.real_kernel import Kernel, Ran, running_cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(30)]

CORPUS = read_corpus()
OBSERVE = "get_ipython().observed_names.observe(get_ipython())"
DOCUMENT = Path(__file__).parents[2] / "docs" / "cells.md"


class Pair(NamedTuple):
    """Two kernels: one runs the cells, the other sends them away."""

    local: Kernel
    remote: Kernel


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_cluster() as environment:
        kernels = Pair(Kernel(environment, OBSERVE), Kernel(environment, OBSERVE))
        try:
            for kernel in kernels:
                kernel.good(
                    "import importlib, sys; sys.path.insert(0, '')\n"
                    "get_ipython().observed_names = importlib.import_module('tests.kernel_ext.observed_names')"
                )
            kernels.remote.good("%%remote\nimport pandas, matplotlib.pyplot")
            yield kernels
        finally:
            for kernel in kernels:
                kernel.close()


def run_both(pair: Pair, cell: CorpusCell) -> tuple[Ran, Ran]:
    """Run a cell in both kernels at once."""
    sent = [kernel.send(cell.before, observing=False) for kernel in pair if cell.before]
    for kernel, message in zip(pair, sent, strict=False):
        assert kernel.finish(message).status == "ok", "what comes before the cell must not fail"
    # The same number of lines, so that the tracebacks can be compared.
    local = pair.local.send(cell.cell if cell.cell.startswith("%%") else f"# %%remote\n{cell.cell}")
    remote = pair.remote.send(f"%%remote\n{cell.cell}")
    return pair.local.finish(local, observing=True), pair.remote.finish(remote, observing=True)


@pytest.mark.parametrize("cell", [pytest.param(cell, id=f"{cell.kind}-{cell.name}") for cell in CORPUS])
def test_a_remote_cell_is_a_cell(pair: Pair, cell: CorpusCell) -> None:
    if cell.needs and importlib.util.find_spec(cell.needs) is None:
        pytest.skip(f"{cell.needs} is not installed")
    local, remote = run_both(pair, cell)
    if cell.differs:
        assert remote != local, "it does not differ any more: mend the corpus and docs/cells.md"
        return
    assert remote.messages == local.messages
    assert remote.status == local.status
    assert remote.names == local.names


def test_the_corpus_is_large_and_what_differs_is_documented() -> None:
    assert len(CORPUS) >= 300
    headings = set(re.findall(r"^#+ (.*)$", DOCUMENT.read_text(), re.MULTILINE))
    assert {cell.differs for cell in CORPUS if cell.differs} <= headings

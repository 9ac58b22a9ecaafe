from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from atoll.kernel_ext import load_ipython_extension
from atoll.kernel_ext.engine.current import use_engine
from tests.kernel_ext.worker_process import ProcessEngine


@pytest.fixture(scope="package")
def workers() -> Iterator[ProcessEngine]:
    """One worker process for all tests: it costs half a second."""
    engine = ProcessEngine()
    yield engine
    engine.close()


class Notebook:
    """An IPython shell with the magics, and what its cells have shown."""

    def __init__(self, shell: Any, engine: ProcessEngine) -> None:
        self.shell = shell
        self.engine = engine
        self.names = shell.user_ns

    def run(self, cell: str) -> Any:
        """Run a cell; return its value or raise its error."""
        return self.shell.run_cell(cell, store_history=True)

    def raised(self, cell: str) -> BaseException:
        """Run a cell that must fail and return its error."""
        result = self.run(cell)
        error = result.error_in_exec or result.error_before_exec
        assert error is not None, "the cell was to fail"
        return error

    def good(self, cell: str) -> Any:
        """Run a cell that must not fail."""
        result = self.run(cell)
        assert result.success, result.error_in_exec or result.error_before_exec
        return result.result


@pytest.fixture
def notebook(workers: ProcessEngine) -> Iterator[Notebook]:
    from IPython.core import async_helpers
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    load_ipython_extension(shell)
    use_engine(workers)
    workers.requests.clear()
    yield Notebook(shell, workers)
    use_engine(None)
    InteractiveShell.clear_instance()
    if async_helpers._asyncio_event_loop is not None:
        async_helpers._asyncio_event_loop.close()
        async_helpers._asyncio_event_loop = None
    for actor in list(workers.actors.values()):
        actor.kill()

"""CPython's own tests of executors, where this machine has them.

They are imported from the standard library's `test` package, not copied. A Python without them may be beside a
Debian package that has them (`libpython3.x-testsuite`); then its file is used, through a link under a name that workers
can import too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from tests.stages import cpython_sources

NAME = "cpython_concurrent_futures"


def executor_tests(directory: Path) -> ModuleType | None:
    """Return the module with the mixins of CPython's executor tests, or None.

    Args:
        directory: Where the link is made; put on `sys.path`, which workers inherit.
    """
    source = next((path for path in cpython_sources() if path.is_file()), None)
    if source is None:
        return None
    link = directory / f"{NAME}.py"
    if not link.exists():
        link.symlink_to(source)
    sys.path.append(str(directory))
    return importlib.import_module(NAME)

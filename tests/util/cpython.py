"""CPython's own tests of executors, where this machine has them.

They are imported from the standard library's `test` package, not copied. A Python without them may be beside a
Debian package that has them (`libpython3.x-testsuite`); then its file is used, through a link under a name that workers
can import too.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

NAME = "cpython_concurrent_futures"


def _sources() -> list[Path]:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    roots = [Path(sysconfig.get_path("stdlib")), Path("/usr/lib") / version]
    return [root / "test" / "test_concurrent_futures.py" for root in roots]


def executor_tests(directory: Path) -> ModuleType | None:
    """Return the module with the mixins of CPython's executor tests, or None.

    Args:
        directory: Where the link is made; put on `sys.path`, which workers inherit.
    """
    source = next((path for path in _sources() if path.is_file()), None)
    if source is None:
        return None
    link = directory / f"{NAME}.py"
    if not link.exists():
        link.symlink_to(source)
    sys.path.append(str(directory))
    return importlib.import_module(NAME)

"""What the modules look like that a cell uses: the user's own by their text, packages by their version.

The user's own modules are those outside of the standard library and of `site-packages`: beside the notebook, on the
path, or installed for development. They count with everything that they import of the same kind, and, as cells do,
by what they say and not by how it is laid out. Nothing is imported to find this out.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from atoll.kernel_ext.cached.bytecode import source_digest
from atoll.kernel_ext.cached.files import FileLooks
from atoll.kernel_ext.cached.hashing import digest_memory

_LIBRARY = tuple(
    f"{Path(directory)}{os.sep}"
    for directory in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    if directory
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass
class ModuleLooks:
    """What modules look like.

    Attributes:
        own: The user's own modules, with the digests of what they say.
        packages: Installed packages, with their versions.
    """

    own: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


class ModuleFinder:
    """Finds modules, as an import would, and what they look like.

    Args:
        files: Keeps what was read of files.
    """

    def __init__(self, files: FileLooks) -> None:
        self._files = files
        self._versions: dict[str, tuple[str, str]] = {}
        self._distributions: dict[str, list[str]] | None = None

    def look(self, names: Iterable[str]) -> ModuleLooks:
        """Return what modules look like, with all that they import.

        Args:
            names: Full names of modules. One that is not found is left out, unless its parent is the user's own.
        """
        importlib.invalidate_caches()  # a file may have come since the last look
        looks = ModuleLooks()
        specs: dict[str, importlib.machinery.ModuleSpec | None] = {}
        waiting = list(dict.fromkeys(names))
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            parent = name.rpartition(".")[0]
            if parent:
                waiting.append(parent)
            spec = self._find(name, specs)
            top = name.partition(".")[0]
            if spec is None or top in ("__main__", "atoll"):
                continue
            origin = spec.origin if spec.has_location else None
            if origin is None or not is_own(origin):
                if top not in sys.stdlib_module_names:
                    looks.packages[top] = self._version(top, origin)
                continue
            digest, imported = self._read(name, spec, origin)
            looks.own[name] = digest
            waiting.extend(imported)
        looks.own = dict(sorted(looks.own.items()))
        looks.packages = dict(sorted(looks.packages.items()))
        return looks

    def _find(
        self, name: str, specs: dict[str, importlib.machinery.ModuleSpec | None]
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module without importing it or its parents."""
        if name not in specs:
            parent = name.rpartition(".")[0]
            specs[name] = None
            if not parent:
                specs[name] = _find_top(name)
            else:
                above = self._find(parent, specs)
                if above is not None and above.submodule_search_locations is not None:
                    places = list(above.submodule_search_locations)
                    specs[name] = importlib.machinery.PathFinder.find_spec(name, places)
        return specs[name]

    def _read(self, name: str, spec: importlib.machinery.ModuleSpec, origin: str) -> tuple[str, list[str]]:
        """Return the digest of one of the user's own modules, and what it may import."""
        try:
            status = os.stat(origin)  # noqa: PTH116
        except OSError:
            return "absent", []
        if not origin.endswith(".py"):
            return self._files.content(origin, status), []

        def read(path: str) -> str:
            return _read_source(path, name, spec.submodule_search_locations is not None)

        digest, _line, imported = self._files.kept(f"module {name}", origin, status, read).partition("\n")
        return digest, imported.split()

    def _version(self, top: str, origin: str | None) -> str:
        try:
            stamp = str(os.stat(os.path.dirname(origin or "")).st_mtime_ns)  # noqa: PTH116, PTH120
        except OSError:
            stamp = ""
        known = self._versions.get(top)
        if known is None or known[0] != stamp:
            known = self._versions[top] = (stamp, self._asked_version(top))
        return known[1]

    def _asked_version(self, top: str) -> str:
        try:
            return importlib.metadata.version(top)
        except importlib.metadata.PackageNotFoundError:
            pass
        if self._distributions is None or top not in self._distributions:
            self._distributions = dict(importlib.metadata.packages_distributions())
        names = sorted(set(self._distributions.get(top, ())))
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names) or "unknown"


def imported_modules(name: str, names: tuple[str, ...], level: int, package: str = "") -> list[str]:
    """Return the modules that an import statement may run.

    Args:
        name: After `import` or `from`; may be empty after dots.
        names: After `import` in `from a import b`: each may be a module.
        level: How many dots.
        package: That the module with the statement is in.
    """
    if level:
        parts = package.split(".")
        parts = parts[: len(parts) - level + 1]
        name = ".".join([*parts, *([name] if name else [])])
    return [name, *(f"{name}.{part}" for part in names if part != "*")] if name else []


def _find_top(name: str) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec: importlib.machinery.ModuleSpec | None = find(name, None) if find is not None else None
        except Exception:  # noqa: S112  # a tool's finder may fail for what it does not know; the next one is asked
            continue
        if spec is not None:
            return spec
    return None


def is_own(origin: str) -> bool:
    """Whether a file is the user's own: neither Python's nor a package's."""
    return not origin.startswith(_LIBRARY) and not any(part in origin for part in _INSTALLED)


def _read_source(path: str, name: str, is_package: bool) -> str:
    """Return the digest of a module's text and, after a line break, the modules that it may import."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return f"unreadable {error.errno}"
    try:
        text = importlib.util.decode_source(data)
        tree = ast.parse(text)
        digest = source_digest(text)
    except (SyntaxError, ValueError):
        return f"no Python {digest_memory(data).hex()}"
    package = name if is_package else name.rpartition(".")[0]
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found |= dict.fromkeys(imported_modules(node.module or "", names, node.level, package))
    return f"{digest}\n{' '.join(found)}"

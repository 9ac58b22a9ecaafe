"""The key of a cell: everything that its result depends on and that is known before it runs, part by part.

Two cells with equal keys do the same with the same. The parts are kept with what the cell has computed, so that a miss
can say which of them has changed.
"""

from __future__ import annotations

import os
import platform
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from atoll.kernel_ext.analysis import CellNames
from atoll.kernel_ext.cached.bytecode import Mentions, mentions_of, source_digest
from atoll.kernel_ext.cached.hashing import digest_text
from atoll.kernel_ext.cached.modules import ModuleFinder, imported_modules
from atoll.kernel_ext.cached.values import Incomparable, ValueDigests
from atoll.kernel_ext.capture import wanted_values, whatever_travels
from atoll.kernel_ext.namespace_pickle import Namespace

_TELL_DIRECTORY = frozenset({"getcwd", "getcwdb", "cwd", "abspath", "realpath", "resolve", "absolute", "__file__"})
"""Where code mentions these, the working directory is something that it depends on."""

_IMPORT_BY_TEXT = frozenset({"import_module", "__import__", "run_module", "find_spec"})


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a result depends on.

    Attributes:
        kind: `code`, `names`, `value`, `function`, `class`, `module`, `package`, `python`, `option`, `directory`.
        name: Which one.
        digest: What it looks like; of packages and Python the version itself.
    """

    kind: str
    name: str
    digest: str


@dataclass(frozen=True)
class CellKey:
    """What a cell's result depends on.

    Attributes:
        parts: In a certain order.
        digest: Of all parts.
        mentions: What its code and that of the functions that it uses mention.
        paths: Paths among the values that it reads.
    """

    parts: tuple[Part, ...]
    digest: str
    mentions: Mentions
    paths: tuple[str, ...]


@dataclass(frozen=True)
class CellCode:
    """A cell as its key sees it.

    Attributes:
        code: Python, after IPython's transformations.
        names: What it reads and sets.
        silent: Whether it ends with a semicolon, which keeps its last value from being shown.
        flags: The compiler's, as earlier cells have left them.
    """

    code: str
    names: CellNames
    silent: bool = False
    flags: int = 0


def key_of(
    cell: CellCode,
    namespace: Namespace,
    keeps: Iterable[str],
    modules: ModuleFinder,
    options: Iterable[tuple[str, Any]] = (),
) -> CellKey:
    """Return the key of a cell.

    Args:
        cell: The cell.
        namespace: The notebook's.
        keeps: The names that it keeps.
        modules: Finds modules.
        options: What its first line says that its result may depend on.

    Raises:
        Incomparable: It reads a value that cannot be compared.
    """
    code = compile_cell(cell)
    parts = [
        Part("code", "", source_digest(cell.code, "<cell>", cell.flags) + (" silent" if cell.silent else "")),
        Part("names", "", ", ".join(keeps)),
    ]
    parts += [Part("option", name, repr(value)) for name, value in options if value is not None]
    values = ValueDigests(namespace)
    mentions = mentions_of(code)
    parts += _value_parts(_values_of(cell, namespace), namespace, values)
    mentions.add(values.mentions)
    wanted = dict(values.modules)
    for name, taken, level in mentions.imports:
        wanted |= dict.fromkeys(imported_modules(name, taken, level))
    if not _IMPORT_BY_TEXT.isdisjoint(mentions.words):
        wanted |= dict.fromkeys(text for text in mentions.texts if all(map(str.isidentifier, text.split("."))))
    if "get_actor" in mentions.words:
        raise Incomparable("an actor, which changes on its own")
    looks = modules.look(wanted)
    parts += [Part("module", name, digest) for name, digest in looks.own.items()]
    parts += [Part("package", name, version) for name, version in looks.packages.items()]
    parts.append(Part("python", "", f"{platform.python_implementation()} {sys.version} {platform.machine()}"))
    if not _TELL_DIRECTORY.isdisjoint(mentions.words):
        parts.append(Part("directory", "", os.getcwd()))  # noqa: PTH109
    digest = digest_text("\0".join(f"{part.kind}\1{part.name}\1{part.digest}" for part in parts))
    return CellKey(tuple(parts), digest, mentions, tuple(values.paths))


def compile_cell(cell: CellCode) -> types.CodeType:
    """Return a cell's code, with `await` allowed."""
    import ast

    flags = cell.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: types.CodeType = compile(cell.code, "<cell>", "exec", flags, dont_inherit=True)
    return code


def _values_of(cell: CellCode, namespace: Namespace) -> Namespace:
    values = wanted_values(cell.names.reads, namespace, None, frozenset())
    if cell.names.open:  # it may read any name, so all count
        values |= whatever_travels(namespace, values, frozenset())
    return values


def _value_parts(read: Namespace, namespace: Namespace, values: ValueDigests) -> list[Part]:
    """Return a part for each value that is read, by the cell or by a function that it uses."""
    parts: dict[str, Part] = {}
    waiting = dict(read)
    while waiting:
        name = next(iter(waiting))
        value = waiting.pop(name)
        parts[name] = Part(_kind_of(value), name, values.digest(name, value))
        more = wanted_values(tuple(values.reads), namespace, None, frozenset())
        waiting |= {name: value for name, value in more.items() if name not in parts}
    return [parts[name] for name in sorted(parts)]


def _kind_of(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        return "function"
    return "class" if isinstance(value, type) else "value"

"""What compiled code is and mentions: its digest, the names and modules that it reads, texts that may name files.

The digest covers all that the code does and nothing of where it stands: no file name, no line numbers. So comments and
layout do not count. Docstrings do: libraries read them.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import types
from dataclasses import dataclass, field
from typing import Any

MAXIMUM_PATH_LENGTH = 512
"""Longer texts name no files."""

_GLOBAL_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_CLASSDEREF"})


_GENERATORS = frozenset({"default_rng", "RandomState", "Random", "SeedSequence"})

UNSEEDED = "a generator without a seed"
"""Among the words of code that makes one."""


@dataclass
class Mentions:
    """What code mentions, itself or in the functions inside of it.

    Attributes:
        reads: Global names.
        imports: Modules, with the names that are taken out of them: `from a import b` is `("a", ("b",), 0)`; the last
            is how many dots a relative import has.
        texts: String constants that are short enough to name a file.
        words: All names and attributes.
    """

    reads: dict[str, None] = field(default_factory=dict)
    imports: dict[tuple[str, tuple[str, ...], int], None] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)
    words: dict[str, None] = field(default_factory=dict)

    def add(self, other: Mentions) -> None:
        """Add what other code mentions."""
        self.reads |= other.reads
        self.imports |= other.imports
        self.texts |= other.texts
        self.words |= other.words


def mentions_of(code: types.CodeType) -> Mentions:
    """Return what code mentions."""
    found = Mentions()
    _collect(code, found)
    return found


def _collect(code: types.CodeType, found: Mentions) -> None:
    found.words |= dict.fromkeys(code.co_names)
    before: list[Any] = [None, None]
    called: Any = None
    for step in dis.get_instructions(code):
        if step.opname == "CALL" and step.arg == 0 and called in _GENERATORS:
            found.words[UNSEEDED] = None
        if step.opname not in ("PRECALL", "PUSH_NULL", "CACHE"):
            called = step.argval
        if step.opname in _GLOBAL_READS:
            found.reads[str(step.argval)] = None
        elif step.opname == "IMPORT_NAME":
            # The level and the names of `from` are the two constants loaded before.
            level, names = before
            found.imports[str(step.argval), tuple(names or ()), level if isinstance(level, int) else 0] = None
        before = [before[1], step.argval]
    for constant in code.co_consts:
        _collect_constant(constant, found)


def _collect_constant(constant: Any, found: Mentions) -> None:
    if isinstance(constant, types.CodeType):
        _collect(constant, found)
    elif isinstance(constant, str):
        if constant and len(constant) <= MAXIMUM_PATH_LENGTH and "\n" not in constant and "\0" not in constant:
            found.texts[constant] = None
    elif isinstance(constant, (tuple, frozenset)):
        for part in constant:
            _collect_constant(part, found)


def code_digest(code: types.CodeType) -> bytes:
    """Return the digest of what code does."""
    hasher = hashlib.sha256()
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_name)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    for part in (repr(shape), repr(names), code.co_code, code.co_exceptiontable):
        payload = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(payload).to_bytes(8, "little") + payload)
    for constant in code.co_consts:
        hasher.update(_constant_digest(constant))
    return hasher.digest()


def _constant_digest(constant: Any) -> bytes:
    if isinstance(constant, types.CodeType):
        return code_digest(constant)
    if isinstance(constant, tuple):
        return hashlib.sha256(b"tuple" + b"".join(map(_constant_digest, constant))).digest()
    if isinstance(constant, frozenset):  # its order differs from process to process
        return hashlib.sha256(b"frozenset" + b"".join(sorted(map(_constant_digest, constant)))).digest()
    return hashlib.sha256(f"{type(constant).__name__} {constant!r}".encode("utf-8", "surrogatepass")).digest()


def source_digest(source: str, filename: str = "<module>", flags: int = 0) -> str:
    """Return the digest of a program's text: of what it says, not of how it is laid out.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = compile(
        source, filename, "exec", flags | ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    return hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()

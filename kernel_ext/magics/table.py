"""The table of the magics: what each may say, and what does it.

A magic is a function of IPython's shell, what its first line says, and its cell. The table gives it its parser, its
documentation and its completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from IPython.core.magic import no_var_expand

from atoll.exceptions import ClusterError
from atoll.kernel_ext import grammar
from atoll.kernel_ext.errors import has_own_lines, one_line
from atoll.kernel_ext.grammar import Grammar, ParsedLine

Run = Callable[[Any, ParsedLine, str], Any]
"""Does what a magic says: takes the shell, the line and the cell (empty for a line magic); returns what is shown."""


class Magic(NamedTuple):
    """One magic.

    Attributes:
        grammar: What its line may say.
        run: What does it.
    """

    grammar: Grammar
    run: Run


def register(shell: Any, magics: Sequence[Magic]) -> None:
    """Add magics to a shell."""
    for magic in magics:
        kind, name = magic.grammar.kind, magic.grammar.magic_name
        call = _function(shell, magic)
        call.replaced = shell.magics_manager.magics[kind].get(name)  # type: ignore[attr-defined]
        shell.register_magic_function(call, kind, name)


def unregister(shell: Any, magics: Sequence[Magic]) -> None:
    """Take magics away. Where IPython has one of the same name, it is there again."""
    for magic in magics:
        known = shell.magics_manager.magics[magic.grammar.kind]
        replaced = getattr(known.pop(magic.grammar.magic_name, None), "replaced", None)
        if replaced is not None:
            known[magic.grammar.magic_name] = replaced


def _function(shell: Any, magic: Magic) -> Callable[..., Any]:
    """Return a magic as IPython calls it: with a line, or with a line and a cell."""
    schema = magic.grammar

    def call(line: str, cell: str = "") -> Any:
        try:
            return magic.run(shell, grammar.parse(schema, line, shell.ev), cell)
        except ClusterError as error:  # the cluster is gone or cannot be used: the message says it all
            raise (error if has_own_lines(error) else one_line(error)) from None

    call.__name__ = schema.magic_name
    call.__qualname__ = schema.magic
    call.__doc__ = grammar.documentation(schema)
    no_var_expand(call)
    return call

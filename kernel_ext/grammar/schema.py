"""What the first line of a magic may say, as values: the one declaration that everything else is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from IPython.core.error import UsageError


class MagicUsageError(UsageError):  # type: ignore[misc]
    """A line that the grammar does not allow. IPython shows one line for it, not a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"UsageError: {self}"]


@dataclass(frozen=True)
class Option:
    """Something written as `key=value`.

    Attributes:
        name: The key.
        metavar: What stands for the value in the documentation.
        help: One line.
        read: Turns text, or the value of an expression, into the option's value; raises ValueError with a reason.
        example: A value that is right, for error messages.
        known: What its values are names of, where a completion can list them: `actor`.
    """

    name: str
    metavar: str
    help: str
    read: Callable[[Any], Any]
    example: str
    known: str = ""


@dataclass(frozen=True)
class Flag:
    """Something that is there or not."""

    name: str
    help: str


@dataclass(frozen=True)
class Grammar:
    """What one magic's first line may say.

    Attributes:
        magic: As it is written, `%%remote` or `%logs`.
        summary: What it does, in a sentence or two.
        examples: First lines, each with what it does.
        name_help: What the bare word is; empty if there is none.
        options: In the order of the documentation.
        flags: Likewise.
        name_required: Whether the bare word must be there.
        name_free: Whether the bare word may be something else than a Python name.
        name_known: What the bare word names, where a completion can list it: `actor`, `cell`.
        notes: Paragraphs after the tables.
    """

    magic: str
    summary: str
    examples: tuple[tuple[str, str], ...]
    name_help: str = ""
    options: tuple[Option, ...] = ()
    flags: tuple[Flag, ...] = ()
    name_required: bool = False
    name_free: bool = False
    name_known: str = ""
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`cell` or `line`, as IPython calls the kinds of magics."""
        return "cell" if self.magic.startswith("%%") else "line"

    @property
    def magic_name(self) -> str:
        """The magic without its percent signs."""
        return self.magic.lstrip("%")

    def option(self, name: str) -> Option | None:
        """Return the option of that name."""
        return next((option for option in self.options if option.name == name), None)

    def flag(self, name: str) -> Flag | None:
        """Return the flag of that name."""
        return next((flag for flag in self.flags if flag.name == name), None)


@dataclass(frozen=True)
class ParsedLine:
    """What a first line says."""

    name: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()

    def get(self, option: str, default: Any = None) -> Any:
        """Return an option's value, or the default where it was not given."""
        return self.values.get(option, default)

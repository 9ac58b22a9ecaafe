"""What the line of a magic may say, as values: the one declaration that everything else is made from.

An option of a magic that is an option of tasks or actors takes its meaning, its limits and what is told of it from
`atoll.option_schema`: here stands only how it is written in a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from IPython.core.error import UsageError

from atoll import option_schema


class MagicUsageError(UsageError):  # type: ignore[misc]
    """A line that the grammar does not allow. IPython shows one line for it, not a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"UsageError: {self}"]


PLACE, NAMES, RUN = "where it runs", "what goes along and comes back", "how it runs"
"""Groups of options, in the order of the documentation."""


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
        group: What it is about: `PLACE`, `NAMES` or `RUN`.
        api: The option of tasks or actors that it is; empty if it is none.
        repeats: Whether it may be there several times; its value is then a tuple, in order.
    """

    name: str
    metavar: str
    help: str
    read: Callable[[Any], Any]
    example: str
    known: str = ""
    group: str = RUN
    api: str = ""
    repeats: bool = False


def option_of(
    api: str,
    metavar: str,
    read: Callable[[Any], Any],
    example: str,
    *,
    more: str = "",
    known: str = "",
    group: str = PLACE,
    repeats: bool = False,
) -> Option:
    """Return the option of a magic that is an option of tasks, or of actors.

    Args:
        api: The option of tasks.
        metavar: See `Option`; so for the others.
        read: Returns the value as tasks take it.
        example: A value as it is written in a line.
        more: What else can be said in a line, after what the option is for.
        known: See there.
        group: See there.
        repeats: See there.
    """
    declarable = option_schema.ACTOR | option_schema.TASK
    declared = declarable[api]

    def checked(value: Any) -> Any:
        made = read(value)
        meant = {} if repeats else getattr(made, "options", {api: made})
        for name, each in meant.items():
            problem = declarable[name].problem(each)
            if problem is not None:
                raise ValueError(f"cannot be: {problem}")
        return made

    told = declared.help + more
    return Option(declared.word, metavar, told, checked, example, known, group, api, repeats)


@dataclass(frozen=True)
class Flag:
    """Something that is there or not.

    Attributes:
        name: The word.
        help: One line.
        api: The option of tasks that it sets; empty if it is none.
    """

    name: str
    help: str
    api: str = ""


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
        names_help: What the bare words are, where there may be several: `df, model`; empty if there are none.
        names_known: What they name, where a completion can list it.
        refused: Words that people may expect, each with why not and what to write instead.
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
    names_help: str = ""
    names_known: str = ""
    refused: Mapping[str, str] = field(default_factory=dict, compare=False)

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


def quoted(text: str) -> str:
    """Return the value of an option as it is written in a line: in quotes where it has spaces."""
    if text.startswith("{") or not any(character.isspace() or character in "'\"{}" for character in text):
        return text
    return f"'{text}'" if "'" not in text else f'"{text}"'


@dataclass(frozen=True)
class ParsedLine:
    """What a first line says.

    Attributes:
        name: The bare word.
        values: Values of options.
        flags: Those that are there.
        grammar: By which it was read; None for a line that says nothing.
        texts: The options as they were written, each time that they were.
    """

    name: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    grammar: Grammar | None = field(default=None, compare=False, repr=False)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The line, in the usual order and form; read again, it says the same."""
        words = [] if self.name is None else [self.name]
        words += [",".join(self.names)] if self.names else []
        words += [f"{name}={quoted(text)}" for name, texts in self.texts.items() for text in texts]
        return " ".join([*words, *sorted(self.flags)])

    def get(self, option: str, default: Any = None) -> Any:
        """Return an option's value, or the default where it was not given."""
        return self.values.get(option, default)

    def api_options(self) -> dict[str, Any]:
        """Return what the line says that is an option of tasks or actors, under the names that these have.

        A value that stands for several of them is a mapping with their names: `gpu=A100:2`.
        """
        said: dict[str, Any] = {}
        for option in self.grammar.options if self.grammar is not None else ():
            value = self.values.get(option.name)
            if option.api and value is not None:
                said.update(value.options if hasattr(value, "options") else {option.api: value})
        for flag in self.grammar.flags if self.grammar is not None else ():
            if flag.api and flag.name in self.flags:
                said[flag.api] = True
        return said

    def in_its_words(self, text: str) -> str:
        """Return a text about options of tasks and actors with the names that they have in such a line."""
        options = self.grammar.options if self.grammar is not None else ()
        names = {option.api: f"{option.name}=" for option in options if option.api}
        return re.sub(r"\b[a-z_]+\b", lambda word: names.get(word.group(), word.group()), text)

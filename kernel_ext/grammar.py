"""The first line of a cell magic: one schema gives its parser, its documentation, its completion and its errors.

    %%remote fit gpu=1 mem={2 * gigabyte} out=model,score bg
             ─┬─ ──┬── ────────┬───────── ───────┬─────── ─┬
             name  option=value, in any order              flag

`--gpu 1`, `--gpu=1` and `--bg` mean the same as `gpu=1` and `bg`. A value in braces is a Python expression. Everything
here is a function of text; expressions are handed to the caller to evaluate.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from IPython.core.error import UsageError

from atoll.resources import parse_bytes

Evaluate = Callable[[str], Any]
"""Evaluates a Python expression where the user's names are known."""


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
    """

    name: str
    metavar: str
    help: str
    read: Callable[[Any], Any]
    example: str


@dataclass(frozen=True)
class Flag:
    """Something that is there or not."""

    name: str
    help: str


@dataclass(frozen=True)
class Grammar:
    """What one magic's first line may say.

    Attributes:
        magic: As it is written, `%%remote`.
        summary: What it does, in a sentence or two.
        examples: First lines, each with what it does.
        name_help: What the bare word is; empty if there is none.
        options: In the order of the documentation.
        flags: Likewise.
        name_required: Whether the bare word must be there.
        notes: Paragraphs after the tables.
    """

    magic: str
    summary: str
    examples: tuple[tuple[str, str], ...]
    name_help: str
    options: tuple[Option, ...]
    flags: tuple[Flag, ...]
    name_required: bool = False
    notes: tuple[str, ...] = ()

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


def read_amount(value: Any) -> float:
    """Read an amount of a resource: `2`, `0.5`.

    Raises:
        ValueError: It is none.
    """
    try:
        amount = float(value)
    except (TypeError, ValueError):
        raise ValueError("is no number") from None
    if not 0 <= amount < float("inf"):
        raise ValueError("must be zero or more, and finite")
    return amount


def read_size(value: Any) -> int:
    """Read a size in bytes: `20G`, or a number.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < float("inf"):
            raise ValueError("must be zero or more, and finite")
        return int(value)
    try:
        return parse_bytes(str(value))
    except ValueError:
        raise ValueError("is no size in bytes") from None


def read_names(value: Any) -> tuple[str, ...]:
    """Read names separated by commas, or a sequence of them. An empty text is no names.

    Raises:
        ValueError: One of them is no Python name.
    """
    parts = value.split(",") if isinstance(value, str) else list(value)
    names = tuple(name.strip() for name in parts if str(name).strip())
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is no Python name")
    return names


def read_word(value: Any) -> str:
    """Read a name that need not be Python's: an actor's.

    Raises:
        ValueError: It is empty.
    """
    text = str(value).strip()
    if not text:
        raise ValueError("is empty")
    return text


GPU = Option("gpu", "N", "GPUs that it holds: 1, 2, or a share such as 0.5", read_amount, "1")
CPU = Option("cpu", "N", "CPUs that it holds; 1 if not said", read_amount, "2")
MEM = Option("mem", "SIZE", "memory that is set aside for it", read_size, "4G")

REMOTE = Grammar(
    magic="%%remote",
    summary="Run this cell on a worker of the cluster: same names, same output, same errors as if it ran here.",
    examples=(
        ("%%remote", "on any free CPU"),
        ("%%remote gpu=1", "on a worker that holds a GPU"),
        ("%%remote fit gpu=1 mem=8G bg", "in the background; then fit.result(), fit['model'], fit.cancel()"),
        ("%%remote on=llm", "inside the actor llm, beside its state"),
        ("%%remote out=score", "bring only `score` back"),
        ("%%remote cpu={n_cores}", "a value computed here"),
    ),
    name_help="what the cell is called in %jobs; with bg, the variable that holds its handle",
    options=(
        GPU,
        CPU,
        MEM,
        Option("out", "NAMES", "names to bring back; all that the cell sets if not said", read_names, "model,score"),
        Option("in", "NAMES", "names to take along; all that the cell reads if not said", read_names, "df"),
        Option("on", "ACTOR", "run inside this actor, beside its state", read_word, "llm"),
    ),
    flags=(
        Flag("bg", "run in the background: the cell ends at once and leaves a handle"),
        Flag("quiet", "show no output"),
    ),
)

ACTOR = Grammar(
    magic="%%actor",
    summary=(
        "Run this cell in a process of its own and keep it: its variables live on, its functions are methods. "
        "Any notebook finds it by its name, also after a kernel restart."
    ),
    examples=(
        ("%%actor llm gpu=1", "then llm.generate('...') from any cell"),
        ("%%actor llm", "again: updates its functions, keeps its state"),
        ("%%actor llm gpu=1 fresh", "end the one there is and start anew"),
    ),
    name_help="the actor's name, in all notebooks, and the variable that stands for it here",
    options=(
        GPU,
        CPU,
        MEM,
        Option("in", "NAMES", "names to take along; all that the cell reads if not said", read_names, "df"),
    ),
    flags=(
        Flag("fresh", "end the actor that has the name, with its state, and make a new one"),
        Flag("quiet", "show no output"),
    ),
    name_required=True,
    notes=("%%remote on=NAME runs a cell inside it. %actor NAME binds the name in another notebook.",),
)


# ------------------------------------------------------------------------------------------------------- parser


def parse(grammar: Grammar, line: str, evaluate: Evaluate) -> ParsedLine:
    """Read a first line.

    Args:
        grammar: What it may say.
        line: What stands after the magic's name.
        evaluate: For values in braces.

    Raises:
        MagicUsageError: It says something else; the message tells what would be right.
    """
    words = split_words(line)
    name: str | None = None
    values: dict[str, Any] = {}
    flags: set[str] = set()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        dashed = word.startswith("--")
        key, equals, text = word.removeprefix("--").partition("=")
        if dashed and not equals and grammar.option(key) is not None:
            if position == len(words):
                raise _needs_value(grammar, key)
            equals, text = "=", words[position]
            position += 1
        if equals:
            _take_option(grammar, values, key, text, evaluate)
        elif grammar.flag(key) is not None:
            flags.add(key)
        elif grammar.option(key) is not None:
            raise _needs_value(grammar, key)
        elif dashed or name is not None or not grammar.name_help:
            raise _unknown(grammar, word, key)
        else:
            name = _checked_name(grammar, word)
    if grammar.name_required and name is None:
        raise MagicUsageError(f"{grammar.magic} needs a name: {grammar.examples[0][0]}")
    return ParsedLine(name, values, frozenset(flags))


def split_words(line: str) -> list[str]:
    """Split a line at spaces, but not inside of braces or quotes. Quotes around a value are taken off.

    Raises:
        MagicUsageError: A brace or quote is not closed.
    """
    words: list[str] = []
    current: list[str] = []
    started = False
    depth = 0
    quote = ""
    for character in line:
        if quote:
            if character == quote:
                quote = ""
                if not depth:
                    continue
        elif character in "'\"":
            quote = character
            started = True
            if not depth:
                continue
        elif character in "{[(":
            depth += character == "{" or bool(depth)
        elif character in "}])":
            depth -= bool(depth)
        elif character.isspace() and not depth:
            if started:
                words.append("".join(current))
                current, started = [], False
            continue
        started = True
        current.append(character)
    if quote or depth:
        raise MagicUsageError(f"this is not closed: {quote or '{'} in {line.strip()}")
    if started:
        words.append("".join(current))
    return words


def _take_option(grammar: Grammar, values: dict[str, Any], key: str, text: str, evaluate: Evaluate) -> None:
    option = grammar.option(key)
    if option is None:
        if not key:
            raise MagicUsageError(f"write key=value without spaces around `=`: {grammar.options[0].name}=1")
        if grammar.flag(key) is not None:
            raise MagicUsageError(f"{key} takes no value: write {key}")
        raise _unknown(grammar, key, key)
    if key in values:
        raise MagicUsageError(f"{key} is there twice")
    if not text and option.read is not read_names:
        raise _needs_value(grammar, key)
    try:
        values[key] = option.read(_value_of(text, evaluate))
    except ValueError as error:
        raise MagicUsageError(f"{key}={text} {error}; write for example {key}={option.example}") from None
    except TypeError:
        raise MagicUsageError(f"{key}={text} has no fitting value; write for example {key}={option.example}") from None


def _value_of(text: str, evaluate: Evaluate) -> Any:
    if not (text.startswith("{") and text.endswith("}")):
        return text
    try:
        return evaluate(text[1:-1])
    except Exception as error:
        raise MagicUsageError(f"{text} raised {type(error).__name__}: {error}") from error


def _checked_name(grammar: Grammar, word: str) -> str:
    if not word.isidentifier():
        near = _near(grammar, word)
        raise MagicUsageError(f"{word!r} is no name{near or '; names are made of letters, digits and _'}")
    return word


def _needs_value(grammar: Grammar, key: str) -> MagicUsageError:
    option = grammar.option(key)
    assert option is not None, "only known options need a value"
    return MagicUsageError(f"{key} needs a value: {key}={option.example}")


def _unknown(grammar: Grammar, word: str, key: str) -> MagicUsageError:
    near = _near(grammar, key)
    if near:
        return MagicUsageError(f"unknown option {word!r}{near}")
    known = [f"{option.name}=" for option in grammar.options] + [flag.name for flag in grammar.flags]
    return MagicUsageError(f"unknown option {word!r}. {grammar.magic} knows {' '.join(known)}")


_SYNONYMS = {
    "background": "bg",
    "async": "bg",
    "memory": "mem",
    "num_gpus": "gpu",
    "num_cpus": "cpu",
    "cores": "cpu",
    "silent": "quiet",
    "output": "out",
    "outputs": "out",
    "inputs": "in",
    "actor": "on",
    "restart": "fresh",
}


def _near(grammar: Grammar, key: str) -> str:
    """Return `. Did you mean ...?` for a word that is nearly one of the grammar's, or an empty text."""
    known = [option.name for option in grammar.options] + [flag.name for flag in grammar.flags]
    near = _SYNONYMS.get(key.lower().replace("-", "_"), "")
    if near not in known:
        near = next(iter(difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)), "")
    if not near:
        return ""
    option = grammar.option(near)
    return f". Did you mean {near}={option.example}?" if option is not None else f". Did you mean {near}?"


# ------------------------------------------------------------------------------- documentation and completion


def documentation(grammar: Grammar) -> str:
    """Return the docstring that `%%remote?` shows: examples first."""
    width = max(len(example) for example, _ in grammar.examples) + 3
    lines = [grammar.summary, "", "Examples:"]
    lines += [f"    {example:<{width}}{what}" for example, what in grammar.examples]
    name = "name" if grammar.name_required else "[name]"
    lines += ["", f"{grammar.magic} {name} key=value … [flags]", ""]
    rows = [("name", grammar.name_help)] if grammar.name_help else []
    rows += [(f"{option.name}={option.metavar}", option.help) for option in grammar.options]
    rows += [(flag.name, flag.help) for flag in grammar.flags]
    width = max(len(key) for key, _ in rows) + 3
    lines += [f"    {key:<{width}}{what}" for key, what in rows]
    lines += ["", "--gpu 1 is the same as gpu=1; a value in braces is Python: cpu={n}."]
    for note in grammar.notes:
        lines += ["", note]
    return "\n".join(lines)


def completions(grammar: Grammar, text: str, values: Mapping[str, Iterable[str]] | None = None) -> list[str]:
    """Return what the word at the end of a first line may become.

    Args:
        grammar: Of the magic.
        text: The line after the magic's name, up to the cursor.
        values: Option name to values that are known, such as the actors for `on`.
    """
    word = "" if not text or text[-1].isspace() else text.rsplit(maxsplit=1)[-1]
    before = text[: len(text) - len(word)].split()
    key, equals, start = word.partition("=")
    if equals:
        known = sorted((values or {}).get(key, ()))
        done, comma, last = start.rpartition(",")
        return [f"{key}={done}{comma}{value}" for value in known if value.startswith(last)]
    used = {part.removeprefix("--").partition("=")[0] for part in before}
    dashes = "--" if word.startswith("--") else ""
    found = [f"{dashes}{option.name}=" for option in grammar.options if option.name not in used]
    found += [f"{dashes}{flag.name}" for flag in grammar.flags if flag.name not in used]
    return [candidate for candidate in found if candidate.startswith(word)]

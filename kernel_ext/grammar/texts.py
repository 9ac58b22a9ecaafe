"""Documentation and completion of a first line, from its schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atoll.kernel_ext.grammar.schema import Grammar


def usage(grammar: Grammar) -> str:
    """Return the shape of a line: `%%remote [name] key=value … [flags]`."""
    parts = [grammar.magic]
    if grammar.name_help:
        parts.append("name" if grammar.name_required else "[name]")
    if grammar.names_help:
        parts.append("[name, …]")
    parts += ["key=value …"] if grammar.options else []
    parts += ["[flags]"] if grammar.flags else []
    return " ".join(parts)


def documentation(grammar: Grammar) -> str:
    """Return the docstring that `%%remote?` shows: examples first."""
    width = max(len(example) for example, _ in grammar.examples) + 3
    lines = [grammar.summary, "", "Examples:"]
    lines += [f"    {example:<{width}}{what}" for example, what in grammar.examples]
    lines += ["", usage(grammar)]
    rows = [("name", grammar.name_help)] if grammar.name_help else []
    rows += [("name, …", grammar.names_help)] if grammar.names_help else []
    rows += [(f"{option.name}={option.metavar}", option.help) for option in grammar.options]
    rows += [(flag.name, flag.help) for flag in grammar.flags]
    width = max((len(key) for key, _ in rows), default=0) + 3
    lines += ["", *(f"    {key:<{width}}{what}" for key, what in rows)] if rows else []
    if grammar.options:
        lines += ["", "--gpu 1 is the same as gpu=1; a value in braces is Python: cpu={n}."]
    for note in grammar.notes:
        lines += ["", note]
    return "\n".join(lines)


def completions(grammar: Grammar, text: str, known: Callable[[str], Iterable[str]]) -> tuple[str, list[str]]:
    """Return the word at the end of a line, and what it may become.

    Args:
        grammar: Of the magic.
        text: The line after the magic's name, up to the cursor.
        known: Returns what there is of a kind, such as the actors.
    """
    word = "" if text[-1].isspace() else text.rsplit(maxsplit=1)[-1]
    before = text[: len(text) - len(word)].split()
    key, equals, start = word.partition("=")
    if equals:
        option = grammar.option(key.removeprefix("--"))
        values = known(option.known) if option is not None and option.known else ()
        done, comma, last = start.rpartition(",")
        return word, [f"{key}={done}{comma}{value}" for value in values if value.startswith(last)]
    used = {part.removeprefix("--").partition("=")[0] for part in before}
    dashes = "--" if word.startswith("--") else ""
    found = [f"{dashes}{option.name}=" for option in grammar.options if option.repeats or option.name not in used]
    found += [f"{dashes}{flag.name}" for flag in grammar.flags if flag.name not in used]
    if not before and not dashes and grammar.name_known:
        found = [*known(grammar.name_known), *found]
    if not dashes and grammar.names_known:
        found = [*(name for name in known(grammar.names_known) if name not in used), *found]
    return word, [candidate for candidate in found if candidate.startswith(word)]

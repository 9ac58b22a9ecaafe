"""From a first line to what it says, or to one line of error with what would be right."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Callable
from typing import Any

from atoll import option_schema
from atoll.kernel_ext.grammar.schema import Grammar, MagicUsageError, ParsedLine
from atoll.kernel_ext.grammar.values import read_names

Evaluate = Callable[[str], Any]
"""Evaluates a Python expression where the user's names are known."""


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
    texts: dict[str, tuple[str, ...]] = {}
    flags: set[str] = set()
    names: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        dashed = word.startswith("--")
        key, equals, text = word.removeprefix("--").partition("=")
        if key in grammar.refused:
            raise MagicUsageError(grammar.refused[key])
        if dashed and not equals and grammar.option(key) is not None:
            if position == len(words):
                raise _needs_value(grammar, key)
            equals, text = "=", words[position]
            position += 1
        if equals:
            _take_option(grammar, values, key, text, evaluate)
            texts[key] = (*texts.get(key, ()), text)
        elif grammar.flag(key) is not None:
            flags.add(key)
        elif grammar.option(key) is not None:
            raise _needs_value(grammar, key)
        elif grammar.names_help and not dashed:
            names += [_checked_name(grammar, part) for part in word.split(",") if part]
        elif dashed or name is not None or not grammar.name_help:
            raise _unknown(grammar, word, key)
        else:
            name = _checked_name(grammar, word)
    if grammar.name_required and name is None:
        raise MagicUsageError(f"{grammar.magic} needs a name: {grammar.examples[0][0]}")
    return ParsedLine(name, values, frozenset(flags), grammar, texts, tuple(dict.fromkeys(names)))


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
            first = grammar.options[0] if grammar.options else None
            hint = f": {first.name}={first.example}" if first is not None else ""
            raise MagicUsageError(f"write key=value without spaces around `=`{hint}")
        if grammar.flag(key) is not None:
            raise MagicUsageError(f"{key} takes no value: write {key}")
        raise _unknown(grammar, key, key)
    if key in values and not option.repeats:
        raise MagicUsageError(f"{key} is there twice")
    if not text and option.read is not read_names:
        raise _needs_value(grammar, key)
    try:
        value = option.read(_value_of(text, evaluate))
    except ValueError as error:
        raise MagicUsageError(f"{key}={text} {error}; write for example {key}={option.example}") from None
    except TypeError:
        raise MagicUsageError(f"{key}={text} has no fitting value; write for example {key}={option.example}") from None
    values[key] = (*values.get(key, ()), value) if option.repeats else value


def _value_of(text: str, evaluate: Evaluate) -> Any:
    if not (text.startswith("{") and text.endswith("}")):
        return text
    try:
        try:
            return evaluate(text[1:-1])
        except SyntaxError:
            return evaluate(text)  # a dict, whose braces are its own: env={"pip": ["humanize"]}
    except Exception as error:
        raise MagicUsageError(f"{text} raised {type(error).__name__}: {error}") from error


def no_expression(text: str) -> Any:
    """Refuse an expression where there are no names to evaluate it with.

    Raises:
        ValueError: Always.
    """
    raise ValueError("expressions cannot stand here")


def _checked_name(grammar: Grammar, word: str) -> str:
    if not grammar.name_free and keyword.iskeyword(word):
        raise MagicUsageError(f"{word!r} is a word of Python and names nothing; take another name")
    if not grammar.name_free and not word.isidentifier():
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
    if not known:
        return MagicUsageError(f"{word!r} says nothing here; write {grammar.examples[0][0]}")
    return MagicUsageError(f"unknown option {word!r}. {grammar.magic} knows {' '.join(known)}")


_SYNONYMS = {
    "background": "bg",
    "async": "bg",
    "memory": "mem",
    "cores": "cpu",
    "silent": "quiet",
    "output": "out",
    "outputs": "out",
    "inputs": "in",
    "actor": "on",
    "restart": "fresh",
    "here": "local",
    "vram": "gpu_mem",
    "limit": "timeout",
    "host": "node",
    "beside": "near",
    "else": "or",
    "explain": "dry",
    "dryrun": "dry",
    "dry_run": "dry",
}


def _near(grammar: Grammar, key: str) -> str:
    """Return `. Did you mean ...?` for a word that is nearly one of the grammar's, or an empty text."""
    known = [option.name for option in grammar.options] + [flag.name for flag in grammar.flags]
    word = key.lower().replace("-", "_")
    near = _SYNONYMS.get(word, "")
    if word in option_schema.TASK:  # what a decorator calls it
        near = option_schema.TASK[word].word
    if near not in known:
        near = next(iter(difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)), "")
    if not near:
        return ""
    option = grammar.option(near)
    return f". Did you mean {near}={option.example}?" if option is not None else f". Did you mean {near}?"

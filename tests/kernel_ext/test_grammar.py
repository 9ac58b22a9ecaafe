from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from atoll import option_schema
from atoll.kernel_ext.grammar import (
    ACTOR,
    REMOTE,
    MagicUsageError,
    ParsedLine,
    completions,
    documentation,
    parse,
    split_words,
)
from atoll.kernel_ext.grammar.page import page
from atoll.kernel_ext.grammar.schema import quoted
from atoll.kernel_ext.grammar.values import Gpus, Places
from atoll.kernel_ext.magics import MAGICS

KEYS = [f"{option.name}=" for option in REMOTE.options]
FLAGS = [flag.name for flag in REMOTE.flags]
ALL = " ".join([*KEYS, *FLAGS])


def evaluate(text: str) -> Any:
    return eval(text, {"n": 3, "names": ["a", "b"]})


def read(line: str) -> ParsedLine:
    return parse(REMOTE, line, evaluate)


@pytest.mark.parametrize(
    ("line", "name", "values", "flags"),
    [
        ("", None, {}, ()),
        ("fit", "fit", {}, ()),
        ("gpu=1", None, {"gpu": Gpus(1.0)}, ()),
        ("--gpu 1", None, {"gpu": Gpus(1.0)}, ()),
        ("--gpu=0.5 --bg", None, {"gpu": Gpus(0.5)}, ("bg",)),
        ("fit gpu=2 mem=8G bg quiet", "fit", {"gpu": Gpus(2.0), "mem": 8 * 2**30}, ("bg", "quiet")),
        ("bg fit", "fit", {}, ("bg",)),
        ("cpu={n * 2}", None, {"cpu": 6.0}, ()),
        ("cpu={ {'a': n}['a'] }", None, {"cpu": 3.0}, ()),
        ("mem={2 ** 20}", None, {"mem": 2**20}, ()),
        ("out=a,b", None, {"out": ("a", "b")}, ()),
        ("out={names}", None, {"out": ("a", "b")}, ()),
        ("out=", None, {"out": ()}, ()),
        ('out="a, b"', None, {"out": ("a", "b")}, ()),
        ("gpu=A100:2", None, {"gpu": Gpus(2.0, ("A100",))}, ()),
        ("gpu=A100,H100", None, {"gpu": Gpus(1.0, ("A100", "H100"))}, ()),
        ("gpu={n}", None, {"gpu": Gpus(3.0)}, ()),
        ("gpu_mem=20G", None, {"gpu_mem": 20 * 2**30}, ()),
        ("node=big", None, {"node": Places(("big",))}, ()),
        ("node=~big", None, {"node": Places(("big",), "rather")}, ()),
        ("node=!a,!b", None, {"node": Places(("a", "b"), "not")}, ()),
        ("labels=zone:in(a,b),disk:!ssd", None, {"labels": {"zone": "in(a,b)", "disk": "!ssd"}}, ()),
        ("resources=licence:1", None, {"resources": {"licence": 1.0}}, ()),
        ("timeout=1h30m", None, {"timeout": 5400.0}, ()),
        ("timeout=90 deadline=10min", None, {"timeout": 90.0, "deadline": 600.0}, ()),
        ("priority=-5 retries=-1", None, {"priority": -5, "retries": -1}, ()),
        ("env=A=1,B=x=y", None, {"env": {"env_vars": {"A": "1", "B": "x=y"}}}, ()),
        ("env={'pip': ['humanize']}", None, {"env": {"pip": ["humanize"]}}, ()),
        ("env={dict(env_vars={'A': str(n)})}", None, {"env": {"env_vars": {"A": "3"}}}, ()),
        ("or=cpu=8", None, {"or": ({"num_cpus": 8.0},)}, ()),
        (
            "or='gpu=H100 mem=1G' or=cpu=8",
            None,
            {"or": ({"num_gpus": 1.0, "accelerator_type": ["H100"], "memory": 2**30}, {"num_cpus": 8.0})},
            (),
        ),
        ("strategy=spread", None, {"strategy": "SPREAD"}, ()),
        ("local dry preemptible", None, {}, ("local", "dry", "preemptible")),
        ("on=my-actor", None, {"on": "my-actor"}, ()),
        ("  gpu=1   bg  ", None, {"gpu": Gpus(1.0)}, ("bg",)),
    ],
)
def test_lines(line: str, name: str | None, values: dict[str, Any], flags: tuple[str, ...]) -> None:
    said = read(line)
    assert said.name == name
    assert said.values == values
    assert said.flags == frozenset(flags)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gpus=1", "unknown option 'gpus'. Did you mean gpu=1?"),
        ("--gpus 1", "unknown option '--gpus'. Did you mean gpu=1?"),
        ("memory=1G", "unknown option 'memory'. Did you mean mem=4G?"),
        ("fit background", "unknown option 'background'. Did you mean bg?"),
        ("num_gpus=1", "unknown option 'num_gpus'. Did you mean gpu=1?"),
        ("max_retries=1", "unknown option 'max_retries'. Did you mean retries=2?"),
        ("zzz=1", f"unknown option 'zzz'. %%remote knows {ALL}"),
        ("gpu", "gpu needs a value: gpu=1"),
        ("--gpu", "gpu needs a value: gpu=1"),
        ("gpu=", "gpu needs a value: gpu=1"),
        ("gpu = 1", "gpu needs a value: gpu=1"),
        ("fit =1", "write key=value without spaces around `=`: gpu=1"),
        ("gpu=1 gpu=2", "gpu is there twice"),
        ("gpu=-1", "gpu=-1 does not say how many; write for example gpu=1"),
        ("gpu=A100:x", "gpu=A100:x does not say how many; write for example gpu=1"),
        (
            "gpu=1.5",
            "gpu=1.5 cannot be: give whole GPUs, or a share below 1 of a single one; write for example gpu=1",
        ),
        ("timeout=soon", "timeout=soon is no time; write for example timeout=10m"),
        ("timeout=0", "timeout=0 must be more than zero; write for example timeout=10m"),
        ("retries=1.5", "retries=1.5 is no whole number; write for example retries=2"),
        (
            "retries=-2",
            "retries=-2 cannot be: give -1 (without end) or a whole number from 0; write for example retries=2",
        ),
        ("node=~a,b", "node=~a,b names several nodes in different ways; write for example node=big"),
        ("labels=zone", "labels=zone has no ':' in 'zone'; write for example labels=zone:a"),
        (
            "labels=zone:in(",
            "labels=zone:in( cannot be: 'zone': 'in(' is no condition; write 'a', '!a', 'in(a, b)' or '!in(a, b)'",
        ),
        (
            "or=gpus=1",
            "or=gpus=1 cannot be: unknown option 'gpus'. Did you mean gpu=1?; write for example or=cpu=8",
        ),
        (
            "env=fast",
            "env=fast is neither variables (NAME=VALUE), nor a file of requirements (.txt), nor a dict",
        ),
        ("cpu=nan", "cpu=nan must be zero or more, and finite; write for example cpu=2"),
        ("mem=lots", "mem=lots is no size in bytes; write for example mem=4G"),
        ("out=a,2b", "out=a,2b '2b' is no Python name; write for example out=model,score"),
        ("out={3}", "out={3} has no fitting value; write for example out=model,score"),
        ("bg=1", "bg takes no value: write bg"),
        ("cpu={missing}", "{missing} raised NameError: name 'missing' is not defined"),
        ("cpu={1", "this is not closed: { in cpu={1"),
        ("out='a", "this is not closed: ' in out='a"),
        ("one two", f"unknown option 'two'. %%remote knows {ALL}"),
        ("fit dryrun", "unknown option 'dryrun'. Did you mean dry?"),
        ("my-cell", "'my-cell' is no name; names are made of letters, digits and _"),
    ],
)
def test_wrong_lines(line: str, message: str) -> None:
    with pytest.raises(MagicUsageError) as caught:
        read(line)
    told = str(caught.value)
    assert message in (told, told.partition("; write for example ")[0])
    assert isinstance(caught.value, UsageError)


def test_an_actor_needs_a_name() -> None:
    with pytest.raises(MagicUsageError, match="%%actor needs a name: %%actor llm gpu=1"):
        parse(ACTOR, "gpu=1", evaluate)
    assert parse(ACTOR, "llm fresh", evaluate).flags == {"fresh"}


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused_in_words(line: str) -> None:
    try:
        said = read(line)
    except MagicUsageError:
        return
    assert said.name is None or said.name.isidentifier()


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), max_size=6))
def test_words_without_quotes_are_those_of_split(words: list[str]) -> None:
    assert split_words("  ".join(words)) == words


def test_documentation_begins_with_examples_and_names_everything() -> None:
    for schema in (REMOTE, ACTOR):
        text = documentation(schema)
        assert text.index("Examples:") < text.index("key=value")
        for option in schema.options:
            assert f"    {option.name}={option.metavar}" in text
            assert option.help in text
        for flag in schema.flags:
            assert flag.help in text
        for example, _ in schema.examples:
            parse(schema, example.removeprefix(schema.magic), lambda _text: 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ", [*KEYS, *FLAGS]),
        (" g", ["gpu=", "gpu_mem="]),
        (" gpu=1 ", [*KEYS[1:], *FLAGS]),
        (" or=cpu=8 o", ["or=", "on=", "out="]),
        (" --b", ["--bg"]),
        (" on=", ["on=llm", "on=other"]),
        (" on=l", ["on=llm"]),
        (" gpu=1", []),
    ],
)
def test_completion(text: str, expected: list[str]) -> None:
    word, found = completions(REMOTE, text, lambda kind: ["llm", "other"] if kind == "actor" else [])
    assert text.endswith(" " + word)
    assert found == expected


def test_an_actor_may_give_its_gpu_up_when_it_is_idle() -> None:
    said = parse(ACTOR, "llm gpu=1 idle=10m", evaluate)
    assert said.api_options() == {"num_gpus": 1, "release_gpu_when_idle_s": 600}
    with pytest.raises(MagicUsageError, match="idle"):
        parse(ACTOR, "llm gpu=1 idle=never", evaluate)


def test_the_page_says_what_the_grammar_says() -> None:
    page_now = page(magic.grammar for magic in MAGICS)
    written = Path(__file__).parents[2] / "docs" / "magics.md"
    assert written.read_text() == page_now, "python -m atoll.kernel_ext.grammar.page > docs/magics.md"


def test_every_option_of_a_line_is_one_of_a_task_or_says_what_it_is() -> None:
    words = {option.word for option in option_schema.TASK.values()}
    own = {"node", "near", "on", "in", "out", "timeout", "queue", "idle", "expire"}
    for magic in MAGICS:
        if magic.grammar.magic_name in ("remote", "actor"):
            assert {option.name for option in magic.grammar.options} <= words | own
    assert words - {""} <= {option.name for option in REMOTE.options} | {flag.name for flag in REMOTE.flags}


SIZES = st.integers(1, 4096).map(lambda size: f"{size}M")
TIMES = st.sampled_from(["90", "30s", "1.5h", "1h30m", "2d", "250ms"])
NAMES = st.lists(st.sampled_from(["a", "b_1", "Model"]), max_size=3).map(",".join)
OPTIONS = {
    "gpu": st.sampled_from(["1", "0.5", "A100", "A100:2", "A100,H100:4", "{1 + 1}", "NVIDIA A100:1"]),
    "gpu_mem": SIZES,
    "cpu": st.integers(0, 640).map(lambda tenths: str(tenths / 10)),
    "mem": SIZES,
    "node": st.sampled_from(["big", "~big", "!big", "a,b", "!a,!b"]),
    "labels": st.sampled_from(["zone:a", "zone:in(a,b),disk:!ssd", "{dict(zone='a')}"]),
    "resources": st.sampled_from(["licence:1", "a:0.5,b:2"]),
    "priority": st.integers(-99, 99).map(str),
    "env": st.sampled_from(["A=1", "A=1,B=two words", "{'pip': ['humanize']}"]),
    "in": NAMES,
    "out": NAMES,
    "deadline": TIMES,
    "timeout": TIMES,
    "queue": st.sampled_from(["train", "night-1"]),
    "retries": st.integers(-1, 9).map(str),
}
LINES = st.tuples(
    st.one_of(st.none(), st.sampled_from(["fit", "model_2"])),
    st.fixed_dictionaries({}, optional=OPTIONS),
    st.lists(st.sampled_from(["cpu=8", "gpu=H100 mem=80G", "gpu=2"]), max_size=2),
    st.sets(st.sampled_from([flag.name for flag in REMOTE.flags])),
)


@given(LINES, st.booleans(), st.randoms(use_true_random=False))
def test_a_line_is_read_as_it_was_meant_and_written_as_it_is_read(
    line: tuple[str | None, dict[str, str], list[str], set[str]], dashed: bool, random: Any
) -> None:
    name, options, alternatives, flags = line
    dashes = "--" if dashed else ""
    words = [f"{dashes}{key}={quoted(text)}" for key, text in options.items()]
    words += [f"{dashes}{flag}" for flag in flags]
    random.shuffle(words)
    words += [f"{dashes}or={quoted(text)}" for text in alternatives]
    said = read(" ".join([*([name] if name else []), *words]))
    assert said.name == name
    assert said.flags == flags
    assert set(said.values) == {*options, *(["or"] if alternatives else [])}
    for key, text in options.items():
        option = REMOTE.option(key)
        assert option is not None
        value = evaluate(text) if text == "{'pip': ['humanize']}" else text
        if text.startswith("{") and value is text:
            value = evaluate(text[1:-1])
        assert said.values[key] == option.read(value)
    assert len(said.get("or", ())) == len(alternatives)
    again = read(str(said))
    assert (again.name, again.values, again.flags) == (said.name, said.values, said.flags)

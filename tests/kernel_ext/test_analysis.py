from __future__ import annotations

import builtins
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.kernel_ext.analysis import CellNames, analyse


def names(source: str) -> CellNames:
    return analyse(textwrap.dedent(source))


def reads(source: str) -> set[str]:
    return {name for name in names(source).reads if not hasattr(builtins, name)}


def sets(source: str) -> set[str]:
    return set(names(source).sets)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x", "x"),
        ("y = x", "x"),
        ("x = 1\nx", ""),
        ("x = x + 1", "x"),
        ("x += 1", "x"),
        ("x = 0\nx += 1", ""),
        ("df['a'] = 1", "df"),
        ("df.a.b = c", "df c"),
        ("del x", "x"),
        ("del x['a']", "x"),
        ("x: int = y", "y"),
        ("if a:\n    x = 1\nx", "a x"),
        ("if a:\n    x = 1\nelse:\n    x = 2\nx", "a"),
        ("for i in xs:\n    y = i\ni, y", "xs i y"),
        ("while a:\n    b = 1\nb", "a b"),
        ("try:\n    x = f()\nexcept E:\n    pass\nx", "f E x"),
        ("try:\n    x = f()\nexcept E:\n    x = 1\nx", "f E"),
        ("try:\n    x = 1\nfinally:\n    y = 2\nx, y", ""),
        ("try:\n    pass\nexcept E as e:\n    e\ne", "E e"),
        ("with open(p) as f:\n    d = f.read()\nd, f", "p"),
        ("with suppress(E):\n    x = g()\nx", "suppress E g x"),
        ("[x + a for x in xs]", "a xs"),
        ("x = [x for x in x]", "x"),
        ("{k: v + w for k, v in d.items() if c}", "w d c"),
        ("[i for r in rows for i in r]", "rows"),
        ("print(y := x)\ny", "x"),
        ("[(y := i) for i in xs]\ny", "xs y"),
        ("import a.b as c, d.e\nc, d", ""),
        ("from a import b as c\nc", ""),
        ("def f(x, y=d, *a, k: T = e) -> R:\n    return x + g + a", "d T e R"),
        ("def f(): return g\nf()", "g"),
        ("def f(): return g\nh(f)", "g h"),
        ("def f(): return g\ng = 1\nf()", ""),
        ("def f(): return g\nf()\ng = 1", "g"),
        ("def f(): return f2()\ndef f2(): return q\nf()", "q"),
        ("def f():\n    x = 1\n    def g(): return x + z\n    return g\nf()()", "z"),
        ("def f():\n    global n\n    n += 1\nf()", "n"),
        ("f = lambda x: x + a\nf(1)", "a"),
        ("@deco\ndef f(): return g", "deco g"),
        ("class A(B, metaclass=M):\n    x = y\n    def f(self): return z", "B M y z"),
        ("class A:\n    def f(self): return z", ""),
        ("class A:\n    def f(self): return z\nA()", "z"),
        ("class A:\n    x = 1\n    y = x", "x"),
        ("async def f(): return g\nawait f()", "g"),
        ("async with a as b:\n    async for c in d:\n        pass", "a d"),
        (
            "match p:\n    case Point(x=0, y=q):\n        r = q\n    case [a, *rest]:\n        s = a, rest",
            "p Point",
        ),
        ("match p:\n    case x:\n        pass\nx", "p x"),
        ("a and (b := c)\nb", "a c b"),
        ("x if c else y", "x c y"),
        ("f'{x!r:{w}}'", "x w"),
        ("get_ipython().run_line_magic('timeit', 'f(x, 3)')", "get_ipython f x timeit"),
        ("get_ipython().system('ls {path}')", "get_ipython ls path"),
        ("eval('a + b')", "a b"),
        ("a, (b, *c) = d\na, b, c", "d"),
        ("x[i], y.z = 1, 2", "x i y"),
    ],
)
def test_reads(source: str, expected: str) -> None:
    assert reads(source) == set(expected.split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = y = 1", "x y"),
        ("x: int", ""),
        ("x: int = 1", "x"),
        ("for i, (a, b) in z: pass", "i a b"),
        ("with a as (b, c): pass", "b c"),
        ("import a.b, c.d as e", "a e"),
        ("from m import x as y, z", "y z"),
        ("def f(): x = 1", "f"),
        ("def f():\n    global g\n    g = 1\nf()", "f g"),
        ("class A:\n    x = 1", "A"),
        ("[y := x for x in z]", "y"),
        ("match p:\n    case {'a': a, **r}: pass\n    case [*s] as t: pass", "a r s t"),
        ("try: pass\nexcept E as e: pass", "e"),
        ("x[0] = 1\ny.z = 2", ""),
        ("x += 1", "x"),
    ],
)
def test_sets(source: str, expected: str) -> None:
    assert sets(source) == set(expected.split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x", "x"),
        ("y = 1\nprint(x, y)", "print x"),
        ("if a:\n    x", "a"),
        ("def f(): return x", ""),
        ("def f(): return x\nf()", ""),
        ("for i in xs:\n    y", "xs"),
        ("try:\n    x\nexcept NameError: pass", ""),
        ("[y for x in xs]", "xs"),
        ("a and b", "a"),
        ("if a:\n    x = 1\nx", "a"),
        ("from m import *\nx", ""),
        ("exec(code)\nx", "exec"),
        ("assert x", "x"),
    ],
)
def test_reads_that_happen_whatever_the_cell_does(source: str, expected: str) -> None:
    assert {name for name, _ in names(source).certain} == set(expected.split())


def test_lines_and_order() -> None:
    found = names("a = 1\nprint(z)\ny\nz")
    assert found.reads == ("print", "z", "y")
    assert dict(found.certain) == {"print": 2, "z": 2, "y": 3}
    assert names("def b(): pass\nclass C: pass\nasync def a(): pass").functions == ("b", "a")


def test_what_is_read_later() -> None:
    found = names("import a\ndef f(): return a + b + g()\ndef g(): return c\ndef h(): return d\nh()")
    assert found.reads == ("d",)
    assert found.later == ("b", "c")


def test_what_only_running_tells() -> None:
    assert names("from os import *").dynamic
    assert names("exec('x = 1')").dynamic
    assert not names("x = 1").dynamic


def test_syntax_errors_have_the_file() -> None:
    with pytest.raises(SyntaxError) as caught:
        analyse("x = = 1", "/tmp/cell.py")
    assert caught.value.filename == "/tmp/cell.py"
    assert caught.value.lineno == 1


_NAMES = st.sampled_from("abcd")
_SIMPLE = st.one_of(
    st.builds("{} = {}".format, _NAMES, _NAMES),
    st.builds("{} += {}".format, _NAMES, _NAMES),
    st.builds("{} = [{} for {} in range(2)]".format, _NAMES, _NAMES, _NAMES),
    st.builds("{} = (lambda {}: {})(1)".format, _NAMES, _NAMES, _NAMES),
    st.builds("def {}(): return {}".format, st.sampled_from("fg"), _NAMES),
    st.builds("{} = f()".format, _NAMES),
    st.builds("def {}(): return f()".format, st.sampled_from("g")),
    st.builds("g()".format),
)


def _indented(body: list[str]) -> str:
    return textwrap.indent("\n".join(body), "    ")


_BLOCK = st.lists(_SIMPLE, min_size=1, max_size=3).map(_indented)
_STATEMENT = st.one_of(
    _SIMPLE,
    st.builds("if {}:\n{}\nelse:\n{}".format, _NAMES, _BLOCK, _BLOCK),
    st.builds("for {} in range(2):\n{}".format, _NAMES, _BLOCK),
    st.builds("try:\n{}\nexcept Exception:\n{}".format, _BLOCK, _BLOCK),
    st.builds("while {}:\n{}\n    break".format, _NAMES, _BLOCK),
)


@given(st.lists(_STATEMENT, min_size=1, max_size=6))
def test_a_cell_runs_the_same_with_only_what_the_analysis_says_that_it_reads(statements: list[str]) -> None:
    source = "\n".join(statements)
    everything: dict[str, Any] = {"a": 1, "b": 2, "c": 0, "d": 4, "f": _one, "g": _one}
    found = names(source)
    only = {name: everything[name] for name in found.reads if name in everything}
    full, full_error = _run(source, everything)
    part, part_error = _run(source, only)
    assert full_error == part_error, source
    for name in found.sets:
        if isinstance(full.get(name), int | list):
            assert full[name] == {**everything, **part}[name], source


def _one() -> int:
    return 1


def _run(source: str, given_names: dict[str, Any]) -> tuple[dict[str, Any], str]:
    namespace = dict(given_names)
    error = ""
    try:
        exec(compile(source, "<cell>", "exec"), namespace)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    plain = {name: value for name, value in namespace.items() if isinstance(value, (int, list))}
    return plain, error.split(" at 0x")[0]

"""Edits of a notebook that change nothing: a cached cell should not run again."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from tests.kernel_ext.cached.bench import Notebook
from tests.kernel_ext.cached.edits import PANDAS, READ, Edit


def _same(name: str, cells: str, cell: str, again: str | None = None, cells_again: str | None = None) -> Edit:
    before = Notebook(cells, cell)
    return Edit(name, before, replace(before, cell=again or cell, cells=cells_again or cells))


_FUNCTION = """
def clean(rows, limit=3):
    "Rows that count."
    kept = [row for row in rows if row["n"] > limit and row["ok"]]
    if not kept:
        return None
    return {"rows": kept, "n": len(kept)}
rows = [{"n": 4, "ok": True}]
"""

_FUNCTION_LAID_OUT = '''

# Cleans.
def clean(
    rows,
    limit=3,  # fewer do not count
):
    """Rows that count."""

    kept = [
        row
        for row in rows
        if row['n'] > limit
        and row['ok']
    ]
    if not kept:  # nothing
        return None

    return {
        "rows": kept,
        "n": len(kept),
    }


rows = [{'n': 4, 'ok': True}]
'''

_CLASS = "class A:\n    rate = 1\n    def f(self, x):\n        return [x * self.rate for _ in range(2)]\na = A()"
_CLASS_LAID_OUT = (
    "class A:  # a class\n\n    rate = 1  # usual\n\n    def f(self, x):\n        # twice\n        return [\n"
    "            x * self.rate\n            for _ in range(2)\n        ]\n\n\na = A()"
)


def _touched(namespace: dict[str, Any]) -> None:
    now = time.time() + 100
    for name in ("t.txt", "mod_t.py"):
        os.utime(name, (now, now))


_MODULE = "rate = 1\ndef f(x):\n    return x * rate\n"
_MODULE_LAID_OUT = (
    "# A module.\n\nrate = 1  # usual\n\n\ndef f( x ):\n    # times\n    return (x\n            * rate)\n"
)

CHANGES_NOTHING = [
    _same("nothing at all", _FUNCTION, "out = clean(rows)"),
    _same("a comment", "x = 1", "out = x + 1", "# What comes out.\nout = x + 1  # one more"),
    _same("blank lines", "x = 1", "out = x + 1\nout += 1", "\n\nout = x + 1\n\n\nout += 1\n"),
    _same("other quotes", "x = 1", "out = {'a': \"b\"}", "out = {\"a\": 'b'}"),
    _same(
        "lines are broken",
        "x = 1",
        "out = [x, x + 1, max(x, 2)]",
        "out = [\n    x,\n    x + 1,\n    max(\n        x, 2\n    ),\n]",
    ),
    _same("parentheses", "x = 1", "out = x + 2 * x", "out = (x + (2 * x))"),
    _same(
        "another indentation",
        "x = 1",
        "if x:\n    out = 1\nelse:\n    out = 2",
        "if x:\n  out = 1\nelse:\n        out = 2",
    ),
    _same("two statements in a line", "x = 1", "a = x; out = a", "a = x\nout = a"),
    _same("text in pieces", "x = 1", "out = 'ab'", "out = 'a' 'b'"),
    _same("other digits of a number", "x = 1", "out = 1000 + 255", "out = 1_000 + 0xff"),
    _same("a function is laid out anew", _FUNCTION, "out = clean(rows)", None, _FUNCTION_LAID_OUT),
    _same("a class is laid out anew", _CLASS, "out = a.f(2)", None, _CLASS_LAID_OUT),
    _same(
        "a function stands elsewhere in its cell",
        "def f(x): return x",
        "out = f(1)",
        None,
        "\n" * 30 + "def f(x): return x",
    ),
    _same(
        "functions change places",
        "def f(x): return g(x)\ndef g(x): return x",
        "out = f(1)",
        None,
        "def g(x): return x\ndef f(x): return g(x)",
    ),
    _same(
        "another cell is renamed",
        "def plot(): return 1\ndef f(x): return x",
        "out = f(1)",
        None,
        "def draw(): return 1\ndef f(x): return x",
    ),
    _same("a variable that it does not read", "x = 1\nother = 1", "out = x", None, "x = 1\nother = 2"),
    _same("a new variable", "x = 1", "out = x", None, "x = 1\nmore = [1, 2]"),
    _same(
        "a variable with the name of an attribute",
        "class A: rate = 1\nrate = 1",
        "out = A.rate",
        None,
        "class A: rate = 1\nrate = 2",
    ),
    _same("a variable that it sets itself before", "x = 1\nout = 5", "out = x\nout += 1", None, "x = 1\nout = 6"),
    _same("imports in another order", "import json, math", "out = math.sqrt(4)", None, "import math\nimport json"),
    _same("an equal list", "x = [1, 2, 3]", "out = sum(x)", None, "x = list(range(1, 4))"),
    _same("an equal dict", "x = {'a': 1, 'b': [2]}", "out = x", None, "x = dict(a=1)\nx['b'] = [1 + 1]"),
    _same(
        "a set that was filled in another order",
        "x = {1, 'a', (2, 'b')}",
        "out = len(x)",
        None,
        "x = set()\nfor v in ((2, 'b'), 'a', 1): x.add(v)",
    ),
    _same(
        "a set of objects that was filled in another order",
        "class A:\n    def __init__(self, n): self.n = n\nx = {A(1), A(2), A(3)}",
        "out = sum(a.n for a in x)",
        None,
        "class A:\n    def __init__(self, n): self.n = n\nx = {A(3), A(1), A(2)}",
    ),
    _same(
        "equal text that is another object",
        "x = ['ab', 'ab']",
        "out = x",
        None,
        "x = [''.join(['a', 'b']) for _ in range(2)]",
    ),
    _same(
        "a value that went through a pickle",
        "import pickle\nx = {'a': [1, (2, 'b')], 'c': {3}}",
        "out = x",
        None,
        "import pickle\nx = pickle.loads(pickle.dumps({'a': [1, (2, 'b')], 'c': {3}}))",
    ),
    _same(
        "an array that was copied",
        "import numpy as np\nx = np.arange(99.)",
        "out = x.sum()",
        None,
        "import numpy as np\nx = np.arange(99.).copy()",
    ),
    _same(
        "a view that is a copy",
        "import numpy as np\nx = np.arange(99.)[::3]",
        "out = x.sum()",
        None,
        "import numpy as np\nx = np.arange(99.)[::3].copy()",
    ),
    _same(
        "a slice of a larger array",
        "import numpy as np\nx = np.arange(10)",
        "out = x.sum()",
        None,
        "import numpy as np\nx = np.arange(20)[:10]",
    ),
    _same(
        "a frame that was copied",
        f"{PANDAS}\nx = pd.DataFrame({{'a': [1, 2], 'b': ['c', 'd']}})",
        "out = len(x)",
        None,
        f"{PANDAS}\nx = pd.DataFrame({{'a': [1, 2], 'b': ['c', 'd']}}).copy()",
    ),
    _same(
        "a frame that was made column by column",
        f"{PANDAS}\nx = pd.DataFrame({{'a': [1, 2], 'b': [3, 4]}})",
        "out = len(x)",
        None,
        f"{PANDAS}\nx = pd.DataFrame({{'a': [1, 2]}})\nx['b'] = [3, 4]",
    ),
    _same(
        "a frame that was looked at",
        f"{PANDAS}\nx = pd.DataFrame({{'a': [1, 2]}})",
        "out = len(x)",
        None,
        f"{PANDAS}\nx = pd.DataFrame({{'a': [1, 2]}})\nx.loc[1], x['a'].sum(), repr(x), x.index.is_unique",
    ),
    _same(
        "a slice of a larger table",
        "import pyarrow as pa\nx = pa.table({'a': [1, 2]})",
        "out = x.num_rows",
        None,
        "import pyarrow as pa\nx = pa.table({'a': [0, 1, 2]}).slice(1)",
    ),
    _same(
        "a table in pieces",
        "import pyarrow as pa\nx = pa.table({'a': [1, 2]})",
        "out = x.num_rows",
        None,
        "import pyarrow as pa\nx = pa.concat_tables([pa.table({'a': [1]}), pa.table({'a': [2]})])",
    ),
    _same(
        "a function that remembers more",
        "import functools\n@functools.lru_cache\ndef f(x): return x",
        "out = f(1)",
        None,
        "import functools\n@functools.lru_cache\ndef f(x): return x\nf(3), f(4)",
    ),
    _same(
        "a pattern that was used",
        "import re\nx = re.compile('a+')",
        "out = x.findall('aab')",
        None,
        "import re\nx = re.compile('a+')\nx.match('a')",
    ),
    _same("a class that was used", _CLASS, "out = a.f(2)", None, _CLASS + "\nA().f(3), isinstance(a, A), repr(A)"),
    _same(
        "an abstract class that was asked",
        "import abc\nclass A(abc.ABC): v = 1",
        "out = A.v",
        None,
        "import abc\nclass A(abc.ABC): v = 1\nisinstance(3, A), isinstance('a', A)",
    ),
    Edit(
        "a comment in a module",
        Notebook("", "import mod_n\nout = mod_n.f(2)", {"mod_n.py": _MODULE}),
        Notebook("", "import mod_n\nout = mod_n.f(2)", {"mod_n.py": "# A module.\n" + _MODULE}),
    ),
    Edit(
        "a module is laid out anew",
        Notebook("", "import mod_n\nout = mod_n.f(2)", {"mod_n.py": _MODULE}),
        Notebook("", "import mod_n\nout = mod_n.f(2)", {"mod_n.py": _MODULE_LAID_OUT}),
    ),
    Edit(
        "a module that it does not use",
        Notebook("", "import mod_n\nout = mod_n.f(2)", {"mod_n.py": _MODULE, "unused.py": "a = 1"}),
        Notebook("", "import mod_n\nout = mod_n.f(2)", {"unused.py": "a = 2"}),
    ),
    Edit(
        "a file and a module are touched",
        Notebook("", f"import mod_t\n{READ.format(repr('t.txt'))}", {"t.txt": "1", "mod_t.py": "a = 1"}),
        Notebook("", f"import mod_t\n{READ.format(repr('t.txt'))}", act=_touched),
    ),
    Edit(
        "a file is written anew with the same content",
        Notebook("", READ.format("'u.txt'"), {"u.txt": "1"}),
        Notebook("", READ.format("'u.txt'"), {"u.txt": "1"}),
    ),
    Edit(
        "another file beside the notebook",
        Notebook("", READ.format("'u.txt'"), {"u.txt": "1"}),
        Notebook("", READ.format("'u.txt'"), {"u.txt": "1", "v.txt": "2"}),
    ),
    Edit(
        "a variable of the environment that it does not read",
        Notebook("", "out = 1"),
        Notebook("", "out = 1", variables={"ELSE": "1"}),
    ),
    Edit(
        "what the cell itself writes",
        Notebook("", "with open('w.txt', 'w') as file:\n    file.write('1')\nout = 1", {"w.txt": None}),
        Notebook("", "with open('w.txt', 'w') as file:\n    file.write('1')\nout = 1", {"w.txt": "other"}),
    ),
    _same(
        "a local variable is renamed",
        "def f(x):\n    y = x\n    return y",
        "out = f(1)",
        None,
        "def f(x):\n    z = x\n    return z",
    ),
    _same("a constant is computed", "x = 1", "out = x * 60", "out = x * (2 * 30)"),
]

"""Edits of a notebook after which a cached cell must run again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from tests.kernel_ext.cached.bench import Notebook


class Edit(NamedTuple):
    """One edit."""

    name: str
    before: Notebook
    after: Notebook


def _cell(name: str, before: str, after: str, cells: str = "import numpy as np\nx = 3") -> Edit:
    return Edit(name, Notebook(cells, before), Notebook(cells, after))


def _code(name: str, before: str, after: str, cell: str = "out = f(3)") -> Edit:
    return Edit(name, Notebook(before, cell), Notebook(after, cell))


def _value(name: str, before: str, after: str, imports: str = "") -> Edit:
    cells = f"{imports}\nvalue = "
    return Edit(name, Notebook(cells + before, "out = repr(value)"), Notebook(cells + after, "out = repr(value)"))


def _acted(name: str, cells: str, cell: str, action: str) -> Edit:
    """An edit that is made to what is there, not to any cell."""

    def act(namespace: dict[str, Any]) -> None:
        exec(action, namespace)

    return Edit(name, Notebook(cells, cell), Notebook(cells, cell, act=act))


def _files(name: str, cell: str, before: dict[str, str | None], after: dict[str, str | None], cells: str = "") -> Edit:
    return Edit(name, Notebook(cells, cell, before), Notebook(cells, cell, after))


NUMPY = "import numpy as np"
PANDAS = "import numpy as np\nimport pandas as pd"

_WRAPPED = (
    "import functools\ndef d(g):\n    @functools.wraps(g)\n    def w(x): return g(x) + {}\n    return w\n"
    "@d\ndef f(x): return x"
)

CODE = [
    _cell("a constant", "out = x + 1", "out = x + 2"),
    _cell("an int becomes a float", "out = x * 2", "out = x * 2.0"),
    _cell("1 becomes True", "out = [1]", "out = [True]"),
    _cell("an operator", "out = x + 1", "out = x - 1"),
    _cell("a comparison", "out = x < 3", "out = x <= 3"),
    _cell("the order of statements", "out = 1\nout = 2", "out = 2\nout = 1"),
    _cell("a statement more", "out = [x]", "out = [x]\nout.append(1)"),
    _cell("another function of a library", "out = np.floor(1.5)", "out = np.ceil(1.5)"),
    _cell("a keyword argument", "out = sorted([2, 1])", "out = sorted([2, 1], reverse=True)"),
    _cell("a dtype", "out = np.zeros(2)", "out = np.zeros(2, 'f4')"),
    _cell("text", "out = 'a'", "out = 'b'"),
    _cell("a semicolon that hides the value", "out = 1\nout", "out = 1\nout;"),
    _cell("the body of a condition", "out = 0\nif x:\n    out = 1", "out = 0\nif x:\n    out = 2"),
    _cell(
        "a statement moves out of a loop",
        "out = 0\nfor _ in range(3):\n    out += 1\n    out *= 2",
        "out = 0\nfor _ in range(3):\n    out += 1\nout *= 2",
    ),
    Edit("other names are kept", Notebook("", "out = other = 1"), Notebook("", "out = other = 1", keeps=("other",))),
    Edit("it asks for a GPU", Notebook(), Notebook(options=(("gpu", 1.0),))),
    _code("a function's body", "def f(x): return x + 1", "def f(x): return x + 2"),
    _code(
        "a function that a function calls",
        "def g(x): return x\ndef f(x): return g(x)",
        "def g(x): return -x\ndef f(x): return g(x)",
    ),
    _code(
        "a function far down",
        "def h(): return 1\ndef g(): return h()\ndef f(x): return g()",
        "def h(): return 2\ndef g(): return h()\ndef f(x): return g()",
    ),
    _code(
        "functions that call each other",
        "def g(n): return n and f(n - 1)\ndef f(n): return n and g(n - 1)",
        "def g(n): return n and f(n - 2)\ndef f(n): return n and g(n - 1)",
        "out = f(0)",
    ),
    _code("a default", "def f(x, y=1): return x + y", "def f(x, y=2): return x + y"),
    _code("a default of a keyword", "def f(x, *, y=1): return x + y", "def f(x, *, y=2): return x + y"),
    _code(
        "a global that a function reads", "rate = 1\ndef f(x): return x * rate", "rate = 2\ndef f(x): return x * rate"
    ),
    _code(
        "a global that a nested function reads",
        "rate = 1\ndef f(x):\n    def g(): return rate\n    return g()",
        "rate = 2\ndef f(x):\n    def g(): return rate\n    return g()",
    ),
    _code(
        "what a closure holds",
        "def make(n):\n    return lambda x: x + n\nf = make(1)",
        "def make(n):\n    return lambda x: x + n\nf = make(2)",
    ),
    _code(
        "a decorator comes",
        "def d(g): return lambda x: -g(x)\ndef f(x): return x",
        "def d(g): return lambda x: -g(x)\n@d\ndef f(x): return x",
    ),
    _code(
        "what a decorator does",
        "def d(g): return lambda x: g(x) + 1\n@d\ndef f(x): return x",
        "def d(g): return lambda x: g(x) + 2\n@d\ndef f(x): return x",
    ),
    _code(
        "a decorator that keeps the name",
        _WRAPPED.format(1),
        _WRAPPED.format(2),
    ),
    _code(
        "a cached function's body",
        "import functools\n@functools.lru_cache\ndef f(x): return x",
        "import functools\n@functools.lru_cache\ndef f(x): return -x",
    ),
    _code("a lambda in a dict", "steps = {'a': lambda x: x}", "steps = {'a': lambda x: -x}", "out = steps['a'](1)"),
    _code(
        "a lambda in a list in a tuple", "steps = ([lambda x: x],)", "steps = ([lambda x: -x],)", "out = steps[0][0](1)"
    ),
    _code(
        "an argument of a partial",
        "from functools import partial\nf = partial(pow, 2)",
        "from functools import partial\nf = partial(pow, 3)",
    ),
    _code("a docstring", "def f(x):\n    'one'\n    return x", "def f(x):\n    'two'\n    return x", "out = f.__doc__"),
    _code("an annotation", "def f(x: int): return x", "def f(x: float): return x", "out = f.__annotations__"),
    _code(
        "a generator's body",
        "def f(n):\n    yield from range(n)",
        "def f(n):\n    yield from range(n + 1)",
        "out = list(f(2))",
    ),
    _code(
        "a statement moves into a try",
        "def g(): pass\ndef f(x):\n    g()\n    try:\n        return x\n    except ValueError:\n        return 0",
        "def g(): pass\ndef f(x):\n    try:\n        g()\n        return x\n    except ValueError:\n        return 0",
    ),
    _acted(
        "a mutable default has changed",
        "def f(x, seen=[]):\n    return len(seen)",
        "out = f(1)",
        "f.__defaults__[0].append(1)",
    ),
    _acted("an attribute of a function", "def f(x): return f.rate\nf.rate = 1", "out = f(1)", "f.rate = 2"),
    _acted(
        "a function is another's code",
        "def f(x): return x\ndef g(x): return -x",
        "out = f(1)",
        "f.__code__ = g.__code__",
    ),
    _code("a method", "class A:\n    def f(self): return 1", "class A:\n    def f(self): return 2", "out = A().f()"),
    _code(
        "a method of a base class",
        "class B:\n    def f(self): return 1\nclass A(B): pass",
        "class B:\n    def f(self): return 2\nclass A(B): pass",
        "out = A().f()",
    ),
    _code(
        "the order of base classes",
        "class B: v = 1\nclass C: v = 2\nclass A(B, C): pass",
        "class B: v = 1\nclass C: v = 2\nclass A(C, B): pass",
        "out = A.v",
    ),
    _code("a class attribute", "class A: rate = 1", "class A: rate = 2", "out = A.rate"),
    _code(
        "the class of an instance",
        "class A:\n    def f(self): return 1\na = A()",
        "class A:\n    def f(self): return 2\na = A()",
        "out = a.f()",
    ),
    _code(
        "a property",
        "class A:\n    @property\n    def v(self): return 1",
        "class A:\n    @property\n    def v(self): return 2",
        "out = A().v",
    ),
    _code(
        "a static method",
        "class A:\n    @staticmethod\n    def v(): return 1",
        "class A:\n    @staticmethod\n    def v(): return 2",
        "out = A.v()",
    ),
    _code(
        "a dataclass's default",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    v: int = 1",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    v: int = 2",
        "out = A().v",
    ),
    _code(
        "an enum's member",
        "import enum\nclass E(enum.Enum):\n    A = 1",
        "import enum\nclass E(enum.Enum):\n    A = 2",
        "out = E.A.value",
    ),
    _code(
        "a metaclass",
        "class M(type): pass\nclass A(metaclass=M): pass",
        "class M(type):\n    def __len__(cls): return 3\nclass A(metaclass=M): pass",
        "out = str(A)",
    ),
    _code("a class in a list", "class A: v = 1\nkinds = [A]", "class A: v = 2\nkinds = [A]", "out = kinds[0].v"),
    _acted("a patched method", "class A:\n    def f(self): return 1\na = A()", "out = a.f()", "A.f = lambda self: 2"),
    _acted("a counter in a class", "class A: n = 0", "out = A.n", "A.n += 1"),
    _acted(
        "a patched method of one object",
        "class A:\n    def f(self): return 1\na = A()",
        "out = a.f()",
        "a.f = lambda: 2",
    ),
    _code("what eval may read", "rate = 1\ntext = 'ra' + 'te'", "rate = 2\ntext = 'ra' + 'te'", "out = eval(text)"),
    _code("what globals() may read", "rate = 1", "rate = 2", "out = globals()['ra' + 'te']"),
]

VALUES = [
    _value("1 and True", "1", "True"),
    _value("1 and 1.0", "1", "1.0"),
    _value("0.0 and -0.0", "0.0", "-0.0"),
    _value("not a number and none", "float('nan')", "0.0"),
    _value("text and bytes", "'a'", "b'a'"),
    _value("a list and a tuple", "[1, 2]", "(1, 2)"),
    _value("a set and a frozenset", "{1}", "frozenset({1})"),
    _value("True inside of a tuple", "(1, 2)", "(True, 2)"),
    _value("-0.0 inside of a list", "[0.0]", "[-0.0]"),
    _value("the order of a dict", "{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}"),
    _value("the order of a list", "[1, 2]", "[2, 1]"),
    _value("an element of a set", "{1, 2}", "{1, 3}"),
    _value("something deep inside", "{'a': [{'b': (1, [2])}]}", "{'a': [{'b': (1, [3])}]}"),
    _value("an element moves to the next list", "[[1, 2], [3]]", "[[1], [2, 3]]"),
    _value("an ordered dict", "{'a': 1}", "OrderedDict(a=1)", "from collections import OrderedDict"),
    _value("a default dict's factory", "defaultdict(int)", "defaultdict(list)", "from collections import defaultdict"),
    _value("the digits of a decimal", "Decimal('1.0')", "Decimal('1.00')", "from decimal import Decimal"),
    _value(
        "a time zone", "datetime(2020, 1, 1)", "datetime(2020, 1, 1, tzinfo=timezone.utc)", "from datetime import *"
    ),
    _value("a flag of a pattern", "re.compile('a')", "re.compile('a', re.I)", "import re"),
    _value("a byte of a bytearray", "bytearray(b'ab')", "bytearray(b'ac')"),
    _value("an attribute", "SimpleNamespace(a=1)", "SimpleNamespace(a=2)", "from types import SimpleNamespace"),
    _value("the state of a generator", "random.Random(1)", "random.Random(2)", "import random"),
    _value("an element of an array", "np.array([1, 2, 3])", "np.array([1, 2, 4])", NUMPY),
    _value("the last element of a large array", "np.zeros(200_000)", "np.r_[np.zeros(199_999), 1]", NUMPY),
    _value("the dtype of an array", "np.zeros(2, 'i8')", "np.zeros(2, 'f8')", NUMPY),
    _value("the byte order of an array", "np.zeros(2, '<i4')", "np.zeros(2, '>i4')", NUMPY),
    _value("the shape of an array", "np.zeros((2, 3))", "np.zeros((3, 2))", NUMPY),
    _value("the layout of an array", "np.eye(3)[:2]", "np.asfortranarray(np.eye(3)[:2])", NUMPY),
    _value("-0.0 in an array", "np.array([0.0])", "np.array([-0.0])", NUMPY),
    _value("an array of objects", "np.array([1, 'a'], object)", "np.array([1, 'b'], object)", NUMPY),
    _value("the type of a scalar", "np.float64(1)", "np.float32(1)", NUMPY),
    _value("the unit of a date", "np.datetime64('2020-01-01', 'D')", "np.datetime64('2020-01-01', 's')", NUMPY),
    _value("the names of fields", "np.zeros(2, [('a', 'i4')])", "np.zeros(2, [('b', 'i4')])", NUMPY),
    _value("the mask of an array", "np.ma.array([1, 2], mask=[0, 0])", "np.ma.array([1, 2], mask=[0, 1])", NUMPY),
    _value("the state of numpy's generator", "np.random.default_rng(1)", "np.random.default_rng(2)", NUMPY),
    _value("a value in a frame", "pd.DataFrame({'a': [1, 2]})", "pd.DataFrame({'a': [1, 3]})", PANDAS),
    _value("the name of a column", "pd.DataFrame({'a': [1]})", "pd.DataFrame({'b': [1]})", PANDAS),
    _value("the order of columns", "pd.DataFrame({'a': [1], 'b': [2]})", "pd.DataFrame({'b': [2], 'a': [1]})", PANDAS),
    _value("the index of a frame", "pd.DataFrame({'a': [1]})", "pd.DataFrame({'a': [1]}, index=[5])", PANDAS),
    _value("the name of an index", "pd.Series([1])", "pd.Series([1]).rename_axis('k')", PANDAS),
    _value("the kind of an index", "pd.Series([1, 2])", "pd.Series([1, 2], index=pd.Index([0, 1]))", PANDAS),
    _value("a missing value's kind", "pd.Series([1, None])", "pd.Series([1, None], dtype='Int64')", PANDAS),
    _value("the dtype of a column", "pd.Series([1], dtype='i8')", "pd.Series([1], dtype='i4')", PANDAS),
    _value("text as objects", "pd.Series(['a'])", "pd.Series(['a'], dtype=object)", PANDAS),
    _value("the order of categories", "pd.Categorical(['a'], ['a', 'b'])", "pd.Categorical(['a'], ['b', 'a'])", PANDAS),
    _value(
        "whether categories are ordered",
        "pd.Series(['a'], dtype='category')",
        "pd.Series(['a'], dtype='category').cat.as_ordered()",
        PANDAS,
    ),
    _value(
        "the time zone of a column",
        "pd.Series(pd.date_range('2020', periods=2))",
        "pd.Series(pd.date_range('2020', periods=2, tz='UTC'))",
        PANDAS,
    ),
    _value(
        "the unit of times",
        "pd.Series(pd.date_range('2020', periods=2)).dt.as_unit('s')",
        "pd.Series(pd.date_range('2020', periods=2)).dt.as_unit('ms')",
        PANDAS,
    ),
    _value(
        "levels of an index", "pd.MultiIndex.from_tuples([(1, 'a')])", "pd.MultiIndex.from_tuples([(1, 'b')])", PANDAS
    ),
    _value("a table", "pa.table({'a': [1, 2]})", "pa.table({'a': [1, 3]})", "import pyarrow as pa"),
    _value(
        "the type of a table's column",
        "pa.table({'a': [1]})",
        "pa.table({'a': pa.array([1], 'i4')})",
        "import pyarrow as pa",
    ),
    _acted(
        "attributes of a frame",
        f"{PANDAS}\nvalue = pd.DataFrame({{'a': [1]}})",
        "out = value.attrs",
        "value.attrs['u'] = 'km'",
    ),
    _acted("a value is changed in place", f"{NUMPY}\nvalue = np.zeros(9)", "out = value.sum()", "value[3] = 1"),
    _acted(
        "a value is changed through a view",
        f"{NUMPY}\nvalue = np.zeros(9)\nview = value[2:]",
        "out = value.sum()",
        "view[0] = 1",
    ),
    _acted("a list inside of a list grows", "value = [[1]]", "out = len(value[0])", "value[0].append(2)"),
    _code("two lists become one", "a, b = [], []", "a = b = []", "a.append(1)\nout = len(b)"),
    _code(
        "two lists inside of one become one",
        "value = [[], []]",
        "part = []\nvalue = [part, part]",
        "value[0].append(1)\nout = value[1]",
    ),
    _code("a value is removed", "x = 1", "pass", "try:\n    out = x\nexcept NameError:\n    out = None"),
    _code(
        "the class of a named tuple",
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\nvalue = P(1, 2)",
        "from collections import namedtuple\nP = namedtuple('P', 'y x')\nvalue = P(1, 2)",
        "out = value._asdict()",
    ),
]

_PACKAGE: dict[str, str | None] = {
    "pack/__init__.py": "from . import inner\n",
    "pack/inner.py": "from .deep import rate\ndef f(): return rate\n",
    "pack/deep.py": "rate = 1\n",
}

MODULES = [
    _files(
        "a constant in a module",
        "out = mod_a.rate",
        {"mod_a.py": "rate = 1\n"},
        {"mod_a.py": "rate = 2\n"},
        "import mod_a",
    ),
    _files(
        "a function in a module",
        "from mod_a import f\nout = f()",
        {"mod_a.py": "def f(): return 1\n"},
        {"mod_a.py": "def f(): return 2\n"},
    ),
    _files(
        "a module that a module imports",
        "import mod_b\nout = mod_b.f()",
        {"mod_a.py": "rate = 1\n", "mod_b.py": "import mod_a\ndef f(): return mod_a.rate\n"},
        {"mod_a.py": "rate = 2\n"},
    ),
    _files(
        "a module that a function of a module imports",
        "import mod_c\nout = mod_c.f()",
        {"mod_a.py": "rate = 1\n", "mod_c.py": "def f():\n    from mod_a import rate\n    return rate\n"},
        {"mod_a.py": "rate = 2\n"},
    ),
    _files("deep inside of a package", "import pack\nout = pack.inner.f()", _PACKAGE, {"pack/deep.py": "rate = 2\n"}),
    _files(
        "a submodule that is named in full",
        "import pack.deep\nout = pack.deep.rate",
        _PACKAGE,
        {"pack/deep.py": "rate = 3\n"},
    ),
    _files(
        "a package's __init__",
        "from pack.deep import rate\nout = rate",
        _PACKAGE,
        {"pack/__init__.py": "from . import deep\ndeep.rate = 9\n"},
    ),
    _files(
        "a star import",
        "from mod_d import *\nout = value_d",
        {"mod_d.py": "value_d = 1\n"},
        {"mod_d.py": "value_d = 2\n"},
    ),
    _files(
        "a module that is imported by text",
        "import importlib\nout = importlib.import_module('mod_e').rate",
        {"mod_e.py": "rate = 1\n"},
        {"mod_e.py": "rate = 2\n"},
    ),
    _files(
        "a module whose name is computed",
        "import importlib\nout = importlib.import_module('mod' + '_f').rate",
        {"mod_f.py": "rate = 1\n"},
        {"mod_f.py": "rate = 2\n"},
    ),
    _files(
        "the module of an instance's class",
        "out = a.f()",
        {"mod_g.py": "class A:\n    def f(self): return 1\n"},
        {"mod_g.py": "class A:\n    def f(self): return 2\n"},
        "from mod_g import A\na = A()",
    ),
    _files(
        "a module that a function of the notebook imports",
        "out = f()",
        {"mod_h.py": "rate = 1\n"},
        {"mod_h.py": "rate = 2\n"},
        "def f():\n    import mod_h\n    return mod_h.rate",
    ),
    _files(
        "a file that a module reads when it is imported",
        "import mod_i\nout = mod_i.conf",
        {
            "conf.json": "1",
            "mod_i.py": "import json\nwith open('co' + 'nf.json') as file:\n    conf = json.load(file)\n",
        },
        {"conf.json": "2"},
    ),
    _files(
        "a module comes that was missed",
        "try:\n    import mod_j\n    out = 1\nexcept ImportError:\n    out = 0",
        {"mod_j.py": None},
        {"mod_j.py": ""},
    ),
    _files(
        "a module hides a package",
        "import colorsys\nout = colorsys.__doc__",
        {"colorsys.py": None},
        {"colorsys.py": "'mine'\n"},
    ),
]


def _rewritten(namespace: dict[str, Any]) -> None:
    """Write other bytes of the same number, and set the time back: only content and the time of change tell."""
    file = Path("same.txt")
    status = file.stat()
    file.write_text("bbb")
    os.utime("same.txt", ns=(status.st_atime_ns, status.st_mtime_ns))


READ = "with open({}) as file:\n    out = file.read()"

FILES = [
    _files(
        "a file that the cell names",
        "from pathlib import Path\nout = Path('a.txt').read_text()",
        {"a.txt": "1"},
        {"a.txt": "2"},
    ),
    _files("a file whose name is computed", READ.format("'b' + '.txt'"), {"b.txt": "1"}, {"b.txt": "2"}),
    _files(
        "a file that a value names",
        READ.format("path"),
        {"c.txt": "1"},
        {"c.txt": "2"},
        "from pathlib import Path\npath = Path('c.txt')",
    ),
    _files(
        "a table that pandas reads",
        "import pandas as pd\nout = pd.read_csv('d.csv')",
        {"d.csv": "a\n1\n"},
        {"d.csv": "a\n2\n"},
    ),
    _files(
        "an array that numpy reads",
        "import numpy as np\nout = np.loadtxt('e' + '.txt')",
        {"e.txt": "1"},
        {"e.txt": "2"},
    ),
    _files(
        "a file comes that was not there", "import os.path\nout = os.path.exists('flag')", {"flag": None}, {"flag": ""}
    ),
    _files("a file is gone", "import os.path\nout = os.path.exists('flag')", {"flag": ""}, {"flag": None}),
    _files("a file more in a directory", "import os\nout = os.listdir('many')", {"many/a": ""}, {"many/b": ""}),
    _files(
        "a file more that a pattern finds",
        "import glob\nout = glob.glob('par' + 'ts/*')",
        {"parts/a": ""},
        {"parts/b": ""},
    ),
    Edit(
        "same size, same time of writing",
        Notebook("", READ.format("'same.txt'"), {"same.txt": "aaa"}),
        Notebook("", READ.format("'same.txt'"), act=_rewritten),
    ),
    Edit(
        "a file of files=",
        Notebook("", "out = 1", {"asked.bin": "1"}, asked=("asked.bin",)),
        Notebook("", "out = 1", {"asked.bin": "2"}, asked=("asked.bin",)),
    ),
    Edit(
        "a file more that a pattern of files= finds",
        Notebook("", "out = 1", {"rows/a.csv": "1"}, asked=("rows/*.csv",)),
        Notebook("", "out = 1", {"rows/b.csv": "1"}, asked=("rows/*.csv",)),
    ),
    Edit(
        "what a file holds that a pattern of files= finds",
        Notebook("", "out = 1", {"rows/a.csv": "1"}, asked=("rows/*.csv",)),
        Notebook("", "out = 1", {"rows/a.csv": "2"}, asked=("rows/*.csv",)),
    ),
    Edit(
        "a file below a directory of files=",
        Notebook("", "out = 1", {"deep/er/a.bin": "1"}, asked=("deep",)),
        Notebook("", "out = 1", {"deep/er/a.bin": "2"}, asked=("deep",)),
    ),
    Edit(
        "an environment variable",
        Notebook("", "import os\nout = os.environ['MODE_X']", variables={"MODE_X": "1"}),
        Notebook("", "import os\nout = os.environ['MODE_X']", variables={"MODE_X": "2"}),
    ),
    Edit(
        "an environment variable with a computed name",
        Notebook("", "import os\nout = os.getenv('MODE' + '_Y')", variables={"MODE_Y": "1"}),
        Notebook("", "import os\nout = os.getenv('MODE' + '_Y')", variables={"MODE_Y": "2"}),
    ),
    Edit(
        "an environment variable comes",
        Notebook("", "import os\nout = os.getenv('MODE_Z')"),
        Notebook("", "import os\nout = os.getenv('MODE_Z')", variables={"MODE_Z": "2"}),
    ),
    Edit(
        "the environment as a whole",
        Notebook("", "import os\nout = dict(os.environ)"),
        Notebook("", "import os\nout = dict(os.environ)", variables={"HOME": "/elsewhere"}),
    ),
]

MUST_MISS = CODE + VALUES + MODULES + FILES

"""What a cell reads and sets, found in its source, before it runs.

Reading too much costs a transfer; reading too little is a NameError in the worker. So whatever may be read is read,
but a name that the cell certainly sets before is not: `df = load(); df.head()` takes no old `df` along.

* Statements are walked in the order in which they run. What a branch sets may be set; what both branches set is.
* The body of a function runs later, so what it reads counts when the function's name is first used. A function that
  the cell only defines takes nothing along: it will run where its names are.
* Which names of a function are global is asked of Python's own symbol table.
* `certain` are reads that happen whatever the cell does; only for these can a missing name be told before it runs.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterable
from dataclasses import dataclass, field

_OPEN_CALLS = frozenset({"globals", "locals", "vars"})
_DYNAMIC_CALLS = frozenset({"exec", "eval", "globals", "locals", "vars", "setattr", "get_ipython", "__import__"})
_TAKE_TEXT = frozenset({"run_line_magic", "run_cell_magic", "system", "getoutput", "exec", "eval"})
_WORD = re.compile(r"[^\W\d]\w*")
_COMPREHENSIONS = {
    ast.ListComp: "listcomp",
    ast.SetComp: "setcomp",
    ast.DictComp: "dictcomp",
    ast.GeneratorExp: "genexpr",
}


_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class CellNames:
    """What the analysis found.

    Attributes:
        reads: Names that the cell may read from the namespace it runs in, in order of first appearance.
        later: Names that functions read which the cell defines and does not use: they will run where they stay.
        sets: Names that it may set, likewise. Incomplete if `dynamic`.
        deletes: Names that it may delete.
        certain: Names that it reads whatever happens, with the line of the first such read.
        functions: The functions that it defines at its top level, in order.
        dynamic: It may set names that its text does not tell: star imports, `exec`, magics.
        open: It may read any name: `eval` of something that is no text in the cell, `globals()`, `import __main__`.
    """

    reads: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    certain: tuple[tuple[str, int], ...] = ()
    functions: tuple[str, ...] = ()
    dynamic: bool = False
    open: bool = False


def analyse(source: str, filename: str = "<cell>", flags: int = 0) -> CellNames:
    """Find what a cell reads and sets.

    Args:
        source: Python, after IPython's transformations. Top-level `await` is allowed.
        filename: For syntax errors.
        flags: The compiler's, as earlier cells have left them: `from __future__ import ...`.

    Raises:
        SyntaxError: It is no Python.
    """
    flags |= ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, filename, "exec", flags, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    flow = _Flow(_Scopes(symtable.symtable(source, filename, "exec")))
    flow.run(tree.body)
    reads, sets, later = tuple(flow.reads), tuple(flow.sets), flow.read_later()
    return CellNames(
        reads,
        later,
        sets,
        tuple(flow.deletes),
        tuple(flow.certain.items()),
        tuple(flow.functions),
        flow.dynamic,
        flow.open,
    )


@dataclass
class _Globals:
    """The global names that the code of a scope, with the scopes inside of it, reads and sets."""

    reads: dict[str, None] = field(default_factory=dict)
    sets: dict[str, None] = field(default_factory=dict)


class _Scopes:
    """Python's symbol tables of a module, found by name and line.

    Two lambdas on one line cannot be told apart; then each counts as both.
    """

    def __init__(self, module: symtable.SymbolTable) -> None:
        self._tables: dict[tuple[str, int], list[symtable.SymbolTable]] = {}
        self._index(module)

    def _index(self, table: symtable.SymbolTable) -> None:
        for child in table.get_children():
            self._tables.setdefault((child.get_name().strip("<>"), child.get_lineno()), []).append(child)
            self._index(child)

    def globals_of(self, name: str, line: int) -> _Globals:
        """Return what the scope reads and sets of the module's names."""
        found = _Globals()
        for table in self._tables.get((name, line), ()):
            self._collect(table, found)
        return found

    def globals_of_comprehension(self, node: _Comprehension) -> _Globals:
        """Return what a comprehension reads and sets of the module's names.

        From Python 3.12 on, one that is no generator is a part of the scope around it and has no table of its own. A
        generator with the same clauses has one, and treats names likewise.
        """
        name = _COMPREHENSIONS[type(node)]
        if (name, node.lineno) in self._tables:
            return self.globals_of(name, node.lineno)
        element = ast.Tuple([node.key, node.value], ast.Load()) if isinstance(node, ast.DictComp) else node.elt
        generator = ast.unparse(ast.GeneratorExp(element, node.generators))
        found = _Globals()
        for table in symtable.symtable(generator, "<cell>", "exec").get_children():
            self._collect(table, found)
        return found

    def _collect(self, table: symtable.SymbolTable, found: _Globals) -> None:
        is_class = table.get_type() == "class"
        for symbol in table.get_symbols():
            name = symbol.get_name()
            if symbol.is_global() or (is_class and symbol.is_assigned()):
                # In a class body a name that is also set there may still be the module's when it is read.
                if symbol.is_referenced():
                    found.reads[name] = None
                if symbol.is_global() and (symbol.is_assigned() or symbol.is_imported()):
                    found.sets[name] = None
                    # `global n; n += 1` is no reference to Python's table, and reads all the same.
                    found.reads[name] = None
        for child in table.get_children():
            self._collect(child, found)


class _Flow(ast.NodeVisitor):
    """Walks the statements of a module in the order in which they run."""

    def __init__(self, scopes: _Scopes) -> None:
        self.reads: dict[str, None] = {}
        self.sets: dict[str, None] = {}
        self.deletes: dict[str, None] = {}
        self.certain: dict[str, int] = {}
        self.functions: dict[str, None] = {}
        self.dynamic = False
        self.open = False
        self._scopes = scopes
        self._defined: set[str] = set()
        self._pending: dict[str, _Globals] = {}
        self._doubt = 0

    def run(self, body: Iterable[ast.stmt]) -> None:
        """Walk statements one after the other."""
        for statement in body:
            self.visit(statement)

    def read_later(self) -> tuple[str, ...]:
        """Return what functions read that were defined and not used. To be asked at the end."""
        before = set(self.reads)
        while self._pending:
            self._take_globals(self._pending.pop(next(iter(self._pending))))
        return tuple(name for name in self.reads if name not in before)

    # ---------------------------------------------------------------------------------------------- names

    def _read(self, name: str, line: int) -> None:
        pending = self._pending.pop(name, None)
        if name not in self._defined:
            self.reads.setdefault(name)
            if not self._doubt and not self.dynamic and name not in self.sets:
                self.certain.setdefault(name, line)
        if pending is not None:
            self._take_globals(pending)

    def _take_globals(self, found: _Globals) -> None:
        """Count what a function reads: from now on it may be called."""
        with_doubt = self._doubt
        self._doubt += 1
        for name in found.reads:
            self.open = self.open or name in _OPEN_CALLS or name in ("exec", "eval")
            self._read(name, 0)
        for name in found.sets:
            self.sets.setdefault(name)
        self._doubt = with_doubt

    def _set(self, name: str) -> None:
        self.sets.setdefault(name)
        self._pending.pop(name, None)
        self._defined.add(name)

    def visit_Name(self, node: ast.Name) -> None:
        """A name that is read, set or deleted."""
        if isinstance(node.ctx, ast.Load):
            self._read(node.id, node.lineno)
            if node.id in _DYNAMIC_CALLS and node.id not in self._defined:
                self.dynamic = True
        elif isinstance(node.ctx, ast.Store):
            self._set(node.id)
        else:
            self._read(node.id, node.lineno)
            self.deletes.setdefault(node.id)
            self._defined.discard(node.id)

    def visit_Call(self, node: ast.Call) -> None:
        """What is handed to a magic, `!`, `exec` or `eval` as text may read any name in that text."""
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in _OPEN_CALLS and not node.args:
            self.open = True
        if called in _TAKE_TEXT:
            self._doubt += 1
            for argument in node.args[:1]:
                self.open = self.open or (called in ("exec", "eval") and not isinstance(argument, ast.Constant))
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    for name in dict.fromkeys(_WORD.findall(argument.value)):
                        self._read(name, 0)
            self._doubt -= 1

    # ---------------------------------------------------------------------------------- simple statements

    def visit_Assign(self, node: ast.Assign) -> None:
        """The value comes before the targets."""
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """`x += 1` reads x."""
        if isinstance(node.target, ast.Name):
            self._read(node.target.id, node.lineno)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """`x: int` sets nothing."""
        self._annotation(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def _annotation(self, node: ast.expr) -> None:
        """It may be kept as text and never read."""
        self._doubt += 1
        self.visit(node)
        self._doubt -= 1

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """The value comes before the target."""
        self.visit(node.value)
        self.visit(node.target)

    def visit_Import(self, node: ast.Import) -> None:
        """`import a.b` sets `a`."""
        for alias in node.names:
            if alias.name == "__main__":
                self.dynamic = self.open = True
            self._set(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from a import *` sets what only running tells."""
        for alias in node.names:
            if alias.name == "*":
                self.dynamic = True
            else:
                self._set(alias.asname or alias.name)

    # ------------------------------------------------------------------------------------------- branches

    def _branches(self, *bodies: Iterable[ast.AST], may_skip: bool = False) -> None:
        """Walk bodies of which one runs, or none."""
        before = self._defined
        ends = [set(before)] if may_skip else []
        self._doubt += 1
        for body in bodies:
            self._defined = set(before)
            for node in body:
                self.visit(node)
            ends.append(self._defined)
        self._doubt -= 1
        self._defined = set.intersection(*ends)

    def visit_If(self, node: ast.If) -> None:
        """One of two bodies."""
        self.visit(node.test)
        self._branches(node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """One of two expressions."""
        self.visit(node.test)
        self._branches([node.body], [node.orelse])

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """All after the first may be skipped."""
        self.visit(node.values[0])
        self._branches(node.values[1:], may_skip=True)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """The body may not run at all."""
        self.visit(node.iter)
        self._branches([node.target, *node.body], may_skip=True)
        self._branches(node.orelse, may_skip=True)

    visit_AsyncFor = visit_For  # noqa: N815  # the name is the visitor's protocol

    def visit_While(self, node: ast.While) -> None:
        """The body may not run at all."""
        self.visit(node.test)
        self._branches(node.body, may_skip=True)
        self._branches(node.orelse, may_skip=True)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        """What the body sets is set only where no handler goes on without it."""
        before = set(self._defined)
        self._branches([*node.body, *node.orelse])
        ends = [self._defined]
        for handler in node.handlers:
            self._defined = set(before)
            self._branches([handler])
            ends.append(self._defined)
        self._defined = set.intersection(*ends)
        self.run(node.finalbody)

    visit_TryStar = visit_Try  # noqa: N815

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """The handler's name is gone at its end."""
        if node.type is not None:
            self.visit(node.type)
        if node.name:
            self._doubt += 1
            self._read(node.name, 0)  # an older value of that name is gone, too, when the handler has run
            self._doubt -= 1
            self._set(node.name)
        self.run(node.body)
        if node.name:
            self._defined.discard(node.name)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """The body runs, but a manager may swallow its end: what it sets may be missing after."""
        for item in node.items:
            self.visit(item)
        if any(_may_suppress(item.context_expr) for item in node.items):
            self._branches(node.body, may_skip=True)
        else:
            self.run(node.body)

    visit_AsyncWith = visit_With  # noqa: N815

    def visit_Match(self, node: ast.Match) -> None:
        """One of the cases, or none."""
        self.visit(node.subject)
        self._branches(*([case] for case in node.cases), may_skip=True)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """`case x` and `case ... as x`."""
        self.generic_visit(node)
        if node.name:
            self._set(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """`case [*rest]`."""
        if node.name:
            self._set(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        """`case {**rest}`."""
        self.generic_visit(node)
        if node.rest:
            self._set(node.rest)

    # --------------------------------------------------------------------------------------------- scopes

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Defaults, decorators and annotations run now, the body when it is called."""
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.visit_arguments(node.args)
        if node.returns is not None:
            self._annotation(node.returns)
        found = self._scopes.globals_of(node.name, node.lineno)
        self._set(node.name)
        self.functions.setdefault(node.name)
        if node.decorator_list:
            self._take_globals(found)
        else:
            self._pending[node.name] = found

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_arguments(self, node: ast.arguments) -> None:
        """Of a function's parameters only defaults and annotations run."""
        for default in [*node.defaults, *(value for value in node.kw_defaults if value is not None)]:
            self.visit(default)
        parameters = [*node.posonlyargs, *node.args, *node.kwonlyargs, node.vararg, node.kwarg]
        for parameter in parameters:
            if parameter is not None and parameter.annotation is not None:
                self._annotation(parameter.annotation)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """It may be called at once."""
        self.visit_arguments(node.args)
        self._take_globals(self._scopes.globals_of("lambda", node.lineno))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body runs now and may call anything."""
        for expression in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(expression)
        found = self._scopes.globals_of(node.name, node.lineno)
        if _has_only_functions(node) and not node.decorator_list:
            self._set(node.name)
            self._pending[node.name] = found
        else:
            found.reads.pop(node.name, None)
            self._take_globals(found)
            self._set(node.name)

    def _comprehension(self, node: _Comprehension) -> None:
        self.visit(node.generators[0].iter)
        self._take_globals(self._scopes.globals_of_comprehension(node))

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension  # noqa: N815


def _has_only_functions(node: ast.ClassDef) -> bool:
    """Whether a class body runs nothing: then what its methods read counts when the class is used."""
    for statement in node.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = statement.args
            if statement.decorator_list or arguments.defaults or any(arguments.kw_defaults):
                return False
        elif not (isinstance(statement, ast.Pass) or _is_constant(statement)):
            return False
    return True


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _may_suppress(context: ast.expr) -> bool:
    """Whether a `with` may go on after its body raised. Most managers never do; those that do say so in their name."""
    words = {node.id for node in ast.walk(context) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(context) if isinstance(node, ast.Attribute)}
    return any("suppress" in word or "raises" in word for word in words)

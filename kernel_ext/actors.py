"""`%%actor` as a kernel sees it: making, finding and updating actors, and the handle whose functions are called.

%%actor llm      nobody has the name        made
                 this cell made it          its functions are updated, its state stays
                 the same cell, elsewhere   it is bound here; what its cell showed is shown again
                 somebody else has it       an error in one line
%%actor llm fresh                           ended and made anew
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atoll.exceptions import ActorDiedError
from atoll.kernel_ext.cell_actor import ActorFacts, actor_class
from atoll.kernel_ext.cell_messages import LAST, CellRequest
from atoll.kernel_ext.engine.contract import Actor, Engine, OnOutput, Options, Running
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.errors import (
    ActorNameTakenError,
    CellInterrupted,
    cell_result_of,
    failure_to_raise,
    one_line,
)
from atoll.kernel_ext.grammar import MagicUsageError
from atoll.kernel_ext.namespace_pickle import Namespace, pack_names, unpack_names
from atoll.kernel_ext.outputs import sink_here
from atoll.kernel_ext.status import Status, StatusLine
from atoll.kernel_ext.waiting import Interrupted, OutputQueue, wait_for

_UNKNOWN_METHOD = (AttributeError,)


class CellActorHandle:
    """An actor that was made by a cell. Its functions are methods here.

    `llm.generate(x)` calls and waits; `llm.generate.remote(x)` gives a ref at once; `llm["name"]` returns the value of
    one of its variables.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._actor: Actor | None = None

    def _found(self) -> Actor:
        if self._actor is None:
            self._actor = require_actor(current_engine(), self._name)
        return self._actor

    def _facts(self) -> ActorFacts:
        return facts_of(current_engine(), self._found(), self._name)

    def __getattr__(self, function: str) -> ActorFunction:
        if function.startswith("_"):
            raise AttributeError(function)
        return ActorFunction(self, function)

    def __getitem__(self, variable: str) -> Any:
        try:
            packed = current_engine().wait(self._found().call("cell_value", variable))
        except KeyError:
            facts = self._facts()
            known = ", ".join(name for name in facts.state if name not in facts.functions) or "none"
            missing = KeyError(f"actor {self._name} has no variable {variable!r}; its variables are: {known}")
            raise one_line(missing) from None
        return unpack_names(packed, _namespace())[LAST]

    def __dir__(self) -> Iterator[str]:
        return iter(self._facts().functions)

    def __reduce__(self) -> tuple[type[CellActorHandle], tuple[str]]:
        return CellActorHandle, (self._name,)

    def __repr__(self) -> str:
        return describe_actor(self._name, self._facts())


class ActorFunction:
    """A function of an actor."""

    def __init__(self, handle: CellActorHandle, name: str) -> None:
        self._handle = handle
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, wait, show what it prints, return its value.

        Raises:
            Exception: What it raised.
        """
        sink = sink_here()
        outputs = OutputQueue()
        title = f"{self._handle._name}.{self.__name__}"
        running = self._send(args, kwargs, outputs.put)
        try:
            packed = wait_for(
                running, outputs, sink, StatusLine(sink, lambda _elapsed_s: Status.of("sent"), enabled=False)
            )
        except Interrupted:
            raise CellInterrupted(f"{title} was cancelled") from None
        except Exception as error:
            failed = cell_result_of(error)
            if failed is None:
                raise one_line(self._advised(error)) from None
            raise failure_to_raise(failed, _namespace(), title) from None
        return unpack_names(packed, _namespace())[LAST]

    def _advised(self, error: Exception) -> Exception:
        """Return an error with what to do about it in a notebook."""
        if not isinstance(error, ActorDiedError) or not error.advice:
            return error
        name = self._handle._name
        again = f"What it held is lost: run the cell %%actor {name} again, which makes it anew"
        return ActorDiedError(error.args[0], error.cause, again)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call it and return a ref to its value at once."""
        return self._handle._found().call("cell_apply", self.__name__, args, kwargs, label=self.__name__).ref

    def _send(self, args: tuple[Any, ...], kwargs: dict[str, Any], on_output: OnOutput) -> Running:
        packed = pack_names({"args": args, "kwargs": kwargs}, _namespace())
        return self._handle._found().call("cell_call", self.__name__, packed, on_output=on_output, label=self.__name__)

    def __repr__(self) -> str:
        return f"<function {self.__name__} of actor {self._handle._name}>"


def _shell() -> Any:
    """Return this process's IPython, or None."""
    import sys

    module = sys.modules.get("IPython.core.interactiveshell")
    if module is None or not module.InteractiveShell.initialized():
        return None
    return module.InteractiveShell.instance()


def _namespace() -> Namespace:
    """Return the namespace that functions from cells have as their globals in this process."""
    shell = _shell()
    namespace: Namespace = shell.user_ns if shell is not None else vars(__import__("__main__"))
    return namespace


# -------------------------------------------------------------------------------------- finding and making


def require_actor(engine: Engine, name: str) -> Actor:
    """Return the actor of that name.

    Raises:
        ValueError: There is none.
    """
    actor = engine.find_actor(name)
    if actor is None:
        error = ValueError(f"there is no actor {name!r}; make one with %%actor {name}, or see %actors")
        raise one_line(error)
    return actor


def facts_of(engine: Engine, actor: Actor, name: str) -> ActorFacts:
    """Return what an actor says of itself.

    Raises:
        ActorNameTakenError: It was not made by a cell.
    """
    try:
        running = actor.call("cell_facts")
    except _UNKNOWN_METHOD:
        kind = f"of the class {actor.class_name} " if actor.class_name else ""
        raise ActorNameTakenError(
            f"the actor {name!r} {kind}was not made by %%actor; use it with atoll.get_actor({name!r}), "
            f"or take another name for the cell"
        ) from None
    facts: ActorFacts = engine.wait(running)
    return facts


def check_variable(name: str, namespace: Namespace) -> None:
    """Make sure that a variable of a notebook may become an actor's handle.

    Raises:
        MagicUsageError: It is something else already, which would be lost; says what.
    """
    from atoll.actor import ActorHandle

    if name in namespace:
        value = namespace[name]
        if not isinstance(value, CellActorHandle | ActorHandle):
            raise MagicUsageError(
                f"{name} is a variable here ({type(value).__name__}), which the actor would replace: "
                f"take another name, or del {name} first"
            )
    else:
        check_builtin(name)


def check_builtin(name: str) -> None:
    """Make sure that a name is none of Python's own.

    Raises:
        MagicUsageError: It is.
    """
    if hasattr(builtins, name):
        raise MagicUsageError(f"{name} is Python's own, which would be hidden: take another name")


def describe_actor(name: str, facts: ActorFacts) -> str:
    """Return an actor in one line: its name and its functions."""
    functions = ", ".join(f"{function}{signature}" for function, signature in facts.functions.items())
    return f"actor {name}: {functions or 'no functions'}"


def code_digest(code: str) -> str:
    """Return a digest of what code does: comments and layout do not count."""
    try:
        text = ast.dump(ast.parse(code))
    except SyntaxError:  # top-level await is none to `ast.parse`
        text = code
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def notebook_path(namespace: Namespace) -> str:
    """Return the path of this notebook, as far as its front end tells it; else empty."""
    return os.environ.get("JPY_SESSION_NAME") or str(namespace.get("__vsc_ipynb_file__") or "")


def origins(engine: Engine, namespace: Namespace) -> tuple[tuple[str, ...], str]:
    """Return what tells this notebook from others, and what people call it."""
    path = notebook_path(namespace)
    tokens = (f"job:{engine.job()}", *((f"path:{path}",) if path else ()))
    return tokens, notebook_name(namespace) or "another session"


def notebook_name(namespace: Namespace) -> str:
    """Return the name of this notebook's file; empty where it is not known."""
    return Path(notebook_path(namespace)).name


def same_notebook(facts: ActorFacts, tokens: tuple[str, ...]) -> bool:
    """Whether an actor was made from this notebook."""
    return bool(set(facts.origins) & set(tokens))


def make_actor(engine: Engine, name: str, functions: tuple[str, ...], options: Options) -> Actor:
    """Make an empty actor that the cell is then run in.

    Raises:
        ActorNameTakenError: Somebody was faster.
        Exception: No node can give the resources.
    """
    try:
        return engine.make_actor(actor_class(name, functions), name, options)
    except ValueError as error:
        raise ActorNameTakenError(str(error)) from None


def taken(name: str, facts: ActorFacts) -> ActorNameTakenError:
    """Return the error for a name that another notebook's cell holds."""
    place = f" made in {facts.place}" if facts.place else ""
    return ActorNameTakenError(
        f"the name {name!r} is held by an actor{place} with other code. Use it with %actor {name}, "
        f"replace it with %%actor {name} fresh, or take another name"
    )


def defining_request(request: CellRequest, *, keep_state: bool) -> CellRequest:
    """Return the request for the cell that makes or updates an actor: nothing comes back."""
    request.bring = ()
    request.keep_last = False
    request.keep_state = keep_state
    return request

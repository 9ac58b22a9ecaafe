"""What `@atoll.remote` and `.options()` are to a type checker, where no class of the package says it.

Nothing here exists when a program runs. A type checker is told as much as Python's types can say:

- `f.remote(1)` is an `ObjectRef` of what `f` returns, and its arguments are checked as those of `f`;
- a ref stands for an argument of any type: a call with one among its first three positional arguments is not checked
  further (one that is given by keyword is not understood);
- a generator function gives an `ObjectRefGenerator` of what it yields;
- where `num_returns` is said, what `.remote()` gives depends on it: anything;
- a handle's methods give refs to anything: a type cannot be made of another's methods. mypy takes a decorated class
  for what it was before; `CounterActor = atoll.remote(Counter)` is an `ActorClass` to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from atoll.actor import ActorClass
    from atoll.remote_function import RemoteFunction

P = ParamSpec("P")
R = TypeVar("R")


class NumberedFunction(Protocol[P]):
    """A remote function whose `num_returns` was said: `.remote()` gives None, a ref, several or a stream."""

    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submit a call and return at once."""

    def options(self, **changes: Any) -> NumberedFunction[P]:
        """Return this function with other options."""


class Decorator(Protocol):
    """What `@atoll.remote(num_gpus=1)` returns."""

    @overload
    def __call__(self, target: type, /) -> ActorClass: ...  # type: ignore[overload-overlap]  # as in `remote`
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, R]: ...


class NumberedDecorator(Protocol):
    """What `@atoll.remote(num_returns=2)` returns."""

    def __call__(self, target: Callable[P, Any], /) -> NumberedFunction[P]:
        """Make a function a remote function."""

"""The arguments of a task or call, as they travel.

Top-level `ObjectRef`s become placeholders: the task waits for their values and gets the values. Refs inside of
containers stay refs. Large arguments are put into the store, so that no message carries them.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from atoll.exceptions import ClusterLostError, SerializationError
from atoll.object_ref import ObjectRef
from atoll.protocol.channel_messages import INLINE_BYTES
from atoll.protocol.serialization import IN_BAND_BYTES, deserialize, is_plain, pack_inline, serialize

if TYPE_CHECKING:
    from atoll.client.session import Session


class Placeholder:
    """Stands in a pickle for the value of a dependency.

    Args:
        index: Which one.
    """

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return Placeholder, (self.index,)


class Arguments(NamedTuple):
    """Arguments ready to travel.

    Attributes:
        data: Pickled `(args, kwargs)`; empty for none.
        dependencies: Ids of the objects whose values take the placeholders' places; None for none.
        keepalive: The refs among and inside the arguments.
    """

    data: bytes
    dependencies: list[bytes] | None
    keepalive: Any


_NONE = Arguments(b"", None, None)


def pack(session: Session, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """Make arguments ready to travel.

    Raises:
        SerializationError: One does not pickle.
        ObjectStoreFullError: One is large, and the store has no room.
    """
    if not args and not kwargs:
        return _NONE
    if not kwargs and all(map(is_plain, args)):
        data = pickle.dumps((args, {}), protocol=5)
        if len(data) <= INLINE_BYTES:
            return Arguments(data, None, None)
    refs: list[ObjectRef[Any]] = []
    if any(type(value) is ObjectRef for value in args) or (
        kwargs and any(type(value) is ObjectRef for value in kwargs.values())
    ):
        args = tuple(_replace(value, refs) for value in args)
        kwargs = {name: _replace(value, refs) for name, value in kwargs.items()}
        _check_ours(session, refs)
    if any(map(_is_long, args)):  # pickled alone at once: to find out together with the others costs as much again
        args = tuple(_put_large(session, value, refs, INLINE_BYTES) if _is_long(value) else value for value in args)
    try:
        serialized = serialize((args, kwargs))
    except SerializationError as error:
        raise _named(error, args, kwargs) from error.__cause__
    if serialized.buffers or len(serialized.data) > INLINE_BYTES:
        if serialized.total_bytes > INLINE_BYTES:
            args = tuple(_put_large(session, value, refs) for value in args)
            kwargs = {name: _put_large(session, value, refs) for name, value in kwargs.items()}
            serialized = serialize((args, kwargs))
        data = pack_inline(serialized, (args, kwargs))
    else:
        data = serialized.data
    if not refs and not serialized.contained:
        return Arguments(data, None, None)
    return Arguments(data, [ref._id for ref in refs] or None, (refs, serialized.contained))


def _named(error: SerializationError, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> SerializationError:
    """Return the error with the name of the argument that does not pickle; as it is if each pickles alone."""
    for name, value in (*((f"number {number}", value) for number, value in enumerate(args, 1)), *kwargs.items()):
        try:
            serialize(value)
        except SerializationError as reason:
            return SerializationError(f"argument {name}: {reason}")
    return error


_LONG = 2000
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset, str, bytes, bytearray})


def _is_long(value: Any) -> bool:
    """Whether a value probably does not fit into a message."""
    return type(value) in _CONTAINERS and len(value) >= _LONG


def _replace(value: Any, refs: list[ObjectRef[Any]]) -> Any:
    if type(value) is not ObjectRef:
        return value
    refs.append(value)
    return Placeholder(len(refs) - 1)


def _check_ours(session: Session, refs: list[ObjectRef[Any]]) -> None:
    """Refuse refs of a session that has ended: its objects are not this one's."""
    for ref in refs:
        if ref._session is not session:
            raise ClusterLostError(f"{ref!r} is of a session that has ended: put its value, or compute it, again")


def _put_large(session: Session, value: Any, refs: list[ObjectRef[Any]], least_bytes: int = IN_BAND_BYTES) -> Any:
    if type(value) is Placeholder:
        return value
    serialized = serialize(value)
    if serialized.total_bytes < least_bytes:
        return value
    return _replace(session.put_serialized(value, serialized), refs)


def unpack(data: bytes, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `(args, kwargs)` with the dependencies' values in the placeholders' places."""
    if not data:
        return (), {}
    args, kwargs = deserialize(data)
    if values:
        args = tuple(values[value.index] if type(value) is Placeholder else value for value in args)
        kwargs = {name: values[v.index] if type(v) is Placeholder else v for name, v in kwargs.items()}
    return args, kwargs


class Signature:
    """Checks arguments at `.remote()`, so that a wrong call fails where it is made.

    Args:
        function: Whose signature.
        skip_first: For a method called by name: `self` is not given.
    """

    __slots__ = ("_maximum", "_minimum", "_name", "_signature")

    def __init__(self, function: Callable[..., Any], *, skip_first: bool = False) -> None:
        self._name = getattr(function, "__name__", "") or repr(function)
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a builtin that does not say
            self._take(None)
            return
        self._take(list(signature.parameters.values())[1 if skip_first else 0 :])

    @classmethod
    def described(cls, name: str, described: list[tuple[str, int, bool]] | None) -> Signature:
        """Return the signature that `describe` described, of a function that is not here."""
        self = cls.__new__(cls)
        self._name = name
        if described is None:
            self._take(None)
            return self
        kinds = list(inspect._ParameterKind)
        empty = inspect.Parameter.empty
        self._take([inspect.Parameter(n, kinds[k], default=None if d else empty) for n, k, d in described])
        return self

    def _take(self, parameters: list[inspect.Parameter] | None) -> None:
        if parameters is None:
            self._signature: inspect.Signature | None = None
            self._minimum, self._maximum = 0, 1 << 30
            return
        self._signature = inspect.Signature(parameters)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required_by_name = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._minimum = sum(p.default is p.empty for p in positional) if not required_by_name else 1 << 30
        self._maximum = 1 << 30 if variadic else len(positional)

    def describe(self) -> list[tuple[str, int, bool]] | None:
        """Return name, kind and whether there is a default, of each parameter; None if they are not known."""
        if self._signature is None:
            return None
        parameters = self._signature.parameters.values()
        return [(p.name, int(p.kind), p.default is not p.empty) for p in parameters]

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, in Python's words, if the function cannot be called so."""
        if not kwargs and self._minimum <= len(args) <= self._maximum:
            return
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self._name}() {error}") from None

"""A function together with the exceptions after which it may be tried again, as it travels to a worker.

Only where the exception was raised can be said whether it is one of these: a caller never unpickles an error just to
decide, and a class that was defined in a notebook is the same class only beside the function that knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class RetryOn(NamedTuple):
    """What a worker unpickles in a function's place.

    Attributes:
        function: The function.
        exceptions: After which it may be tried again.
    """

    function: Callable[..., Any]
    exceptions: tuple[type[Exception], ...]

"""The cluster of the tests of the API, for a module here too."""

from tests.api.conftest import cluster, r24_nothing_left, session

__all__ = ["cluster", "r24_nothing_left", "session"]

"""The services that handlers call, each found by its type: a new resource adds its own, and touches no list of all of them (after svcs)."""

from typing import Any, TypeVar

T = TypeVar("T")


class Services:
    """One object of each type."""

    def __init__(self, *services: object) -> None:
        self._by_type: dict[type, Any] = {type(service): service for service in services}

    def get(self, kind: type[T]) -> T:
        """Return the service of a type. Raises KeyError: nobody added it."""
        found: T = self._by_type[kind]
        return found

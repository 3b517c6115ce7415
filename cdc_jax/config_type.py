"""The type of configurations, for annotations.

Modules that only read settings import this in place of ml_collections: they also run on a machine
that lacks ml_collections, with settings of any class that has attributes and keys.
"""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ConfigDict(Protocol):
    """What modules ask of an `ml_collections.ConfigDict`."""

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...

    def __getitem__(self, key: str) -> Any: ...

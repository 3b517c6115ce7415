"""The type of configurations, for annotations.

Modules that only read settings import this type in place of ml_collections. They then run without
ml_collections, with settings of any class that has attributes and keys.
"""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ConfigDict(Protocol):
    """The part of `ml_collections.ConfigDict` that modules use."""

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...

    def __getitem__(self, key: str) -> Any: ...
